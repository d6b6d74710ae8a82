"""Write drawn samples as a data set, in the layout of Reason-RFT's own.

    python -m rrft_jax.data.drawn --task=TASK --out=scenes --train=1000 --test=100

    scenes/images/{train,test}_images/<id>-<picture>.png
    scenes/train_jsons/<Task>-train-cot.json       id, image, problem, cot, answer
    scenes/test_jsons/<Task>-<split>-test.json

`--config.data.path=scenes` trains on it, and so does any other trainer that reads that layout. The
samples are those that a run without `data.path` would draw, at the size that is asked for.
"""

import argparse
import json
import pathlib
import sys

from rrft_jax.data.drawn import SIZE, DrawnSource
from rrft_jax.data.processor import open_image
from rrft_jax.errors import UserError
from rrft_jax.monitoring import Progress
from rrft_jax.prog import prog
from rrft_jax.tasks import TASKS


def write(source: DrawnSource, root: pathlib.Path) -> pathlib.Path:
    """Write one split below `root`, a sample at a time, and return its JSON file.

    The file appears under its name when it is complete.
    """
    kind = "train" if source.split == "train" else "test"
    images = root / "images" / f"{kind}_images"
    ending = "train-cot" if kind == "train" else f"{source.split}-test"
    file = root / f"{kind}_jsons" / f"{TASKS[source.task].title}-{ending}.json"
    images.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".new")
    with (
        beside.open("w", encoding="utf-8") as out,
        Progress(source.split, total=len(source)) as progress,
    ):
        out.write("[\n")
        for index in range(len(source)):
            example = source[index]
            names = [f"{example.id}-{number}.png" for number in range(len(example.images))]
            for name, image in zip(names, example.images):
                open_image(image).save(images / name)
            row = {
                "id": example.id,
                "image": names[0] if len(names) == 1 else names,
                "problem": example.problem,
                "answer": example.answer,
            }
            if kind == "train":
                row["cot"] = example.cot
            out.write((",\n" if index else "") + json.dumps(row, ensure_ascii=False))
            progress.update(index + 1)
        out.write("\n]\n")
    beside.replace(file)
    return file


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.data.drawn"), description=__doc__.splitlines()[0]
    )
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder to write")
    parser.add_argument("--train", type=int, default=1000, help="training samples")
    parser.add_argument("--test", type=int, default=100, help="samples of each held-out split")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels on a side")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        if min(args.train, args.test) < 0 or args.size < 28:
            raise UserError("expected --train and --test of 0 or more, --size of 28 or more")
        for split in TASKS[args.task].splits:
            number = args.train if split == "train" else args.test
            if number:
                source = DrawnSource(args.task, split, args.seed, 0, number, args.size)
                print(write(source, args.out.expanduser()))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
