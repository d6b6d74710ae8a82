"""Any data set -> ArrayRecord, once, for random access at speed; and back to `Example`.

    python -m rrft_jax.data.tfds_builder --task=TASK --path=DATASET --out=counting
    python -m rrft_jax.data.tfds_builder --task=TASK --train=100000 --out=scenes

    counting/rrft_jax-train.array_record-00000-of-00001     the records with their picture files
    counting/rrft_jax-ood_left.array_record-00000-of-00001  one file per split; TFDS allows no "-"
    counting/dataset_info.json, features.json               the metadata for TFDS

`--path` is a folder or a file of samples; without it samples are drawn. The result is a folder for
TFDS, which `tfds.builder_from_directory` reads too. Nothing here needs TensorFlow or the network.
The builders of TFDS don't fit: they collect a split before they write it, up to 1 GB in memory, and
the rest goes to temporary files through TensorFlow. Here each record is written once it is read.
So the order stays that of the source, and memory does not grow with the number of records.

Every picture is decoded once on the way. So a record with a missing, truncated or too large picture
is left out and counted now, not in the middle of a training run. Picture files are copied byte for
byte; a picture that exists only in memory is stored as PNG.

The folder gets its name when it is complete. A killed build leaves `<name>.building` behind, which
cannot be read. The next build of that name removes it.
"""

import argparse
import collections
import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrft_jax.data import drawn
from rrft_jax.data.files import find_splits, shown
from rrft_jax.data.processor import BadSample, open_image
from rrft_jax.data.readers import read_examples
from rrft_jax.errors import UserError
from rrft_jax.monitoring import Progress, say
from rrft_jax.prog import prog
from rrft_jax.tasks import SPLITS, TASKS, Example, find

_TEXTS = ("answer", "cot", "id", "problem", "task")
_LATER = ("part", "system", "preface", "image_offsets", "extra")  # texts older builds may lack
_MAX_RECORD_BYTES = 1 << 30  # a record can't hold 2 GiB


def build(
    out: pathlib.Path, sources: Mapping[str, Sequence[Example]]
) -> dict[str, collections.Counter[str]]:
    """Write the folder `out`, whole or not at all.

    Args:
      out: the folder to make; its parent may be missing too.
      sources: split -> samples, for splits of SPLITS; each sample is read once, in order.

    Returns:
      split -> the number of samples left out, by cause. The console shows it as well.

    Raises:
      UserError: `out` exists, another build is writing it, or a split has no usable sample.
    """
    import tensorflow_datasets as tfds  # takes seconds

    if not sources:
        raise UserError(f"{out}: nothing to write; expected at least one split with samples")
    features = _features()
    infos, reports, skipped = [], [], {}
    with _complete_or_gone(out) as folder:
        for split, examples in sources.items():
            template = tfds.core.ShardedFileTemplate(
                data_dir=folder,
                dataset_name="rrft_jax",
                split=split.replace("-", "_"),
                filetype_suffix="array_record",
            )
            file = os.fspath(template.sharded_filepath(shard_index=0, num_shards=1))
            written, skipped[split], first = _write(file, split, examples, features)
            if first:
                causes = ", ".join(f"{cause}: {n}" for cause, n in skipped[split].items())
                reports.append(
                    f"{skipped[split].total()} of {len(examples)} samples of {split!r} are left "
                    f"out ({causes}), the first of them: {first}"
                )
            if not written:
                raise UserError(
                    f"{out}: not built: {reports[-1] if first else f'{split!r} is empty'}"
                )
            infos.append(
                tfds.core.SplitInfo(
                    name=template.split,
                    shard_lengths=[written],
                    num_bytes=os.path.getsize(file),
                    filename_template=template,
                )
            )
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=features,
            split_infos=infos,
            disable_shuffling=True,
            check_data=False,  # the check needs TensorFlow
        )
    for report in reports:
        say(f"data: {report}")
    return skipped


@dataclasses.dataclass(frozen=True)
class RecordSource(Sequence[Example]):
    """Some samples of one split. Threads may share it; another process opens the files again.

    A slice is a `RecordSource` too. Slicing reads nothing.
    """

    path: str
    split: str
    numbers: range  # of the samples in the split
    stored: Any = dataclasses.field(repr=False, compare=False)  # TFDS's data source

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return dataclasses.replace(self, numbers=self.numbers[index])
        record = self.stored[self.numbers[index]]
        fields = {name: record[name].decode() for name in (*_TEXTS, *_LATER) if name in record}
        fields["cot"] = fields["cot"] or None
        fields["image_offsets"] = tuple(map(int, fields.get("image_offsets", "").split()))
        fields["extra"] = json.loads(fields.get("extra") or "{}")
        return Example(images=tuple(record["images"]), **fields)

    def __reduce__(self) -> tuple:
        return _reopen, (self.path, self.split, self.numbers)


def open_source(path: str, split: str) -> RecordSource:
    """Return one split of a folder that `build` wrote; its pictures are bytes.

    Raises:
      UserError: the folder is missing, unfinished, incomplete or of another kind, or it has no such
        split.
    """
    builder = _open(path)
    held = _splits(builder)
    if split not in held:
        raise UserError(f"{path}: no {split!r} split; it has {', '.join(held)}")
    stored = builder.as_data_source(split.replace("-", "_"))
    where = os.path.abspath(builder.data_dir)  # another process may work in another folder
    return RecordSource(where, split, range(len(stored)), stored)


def splits(path: str) -> dict[str, int]:
    """Return split -> number of samples of a folder that `build` wrote, in the order of SPLITS.

    Raises:
      UserError: as `open_source`.
    """
    return _splits(_open(path))


def _reopen(path: str, split: str, numbers: range) -> RecordSource:
    return dataclasses.replace(open_source(path, split), numbers=numbers)


def _open(path: str) -> Any:
    import tensorflow_datasets as tfds

    folder = pathlib.Path(path).expanduser()
    if not (folder / "dataset_info.json").is_file():
        if _unfinished(folder).exists():
            raise UserError(
                f"{path}: its build has not finished; wait for it, or run the same command again"
            )
        found = "not a data set that tfds_builder wrote" if folder.exists() else "no such folder"
        raise UserError(
            f"{path}: {found}; python -m rrft_jax.data.tfds_builder --out={path} writes one"
        )
    try:
        builder = tfds.builder_from_directory(folder)
        theirs, ours = (set(features.keys()) for features in (builder.info.features, _features()))
    except Exception as error:  # its parsers may raise anything
        raise UserError(
            f"{path}: TFDS can't read it ({' '.join(str(error).split()):.200}); build it again"
        ) from None
    if not ours - set(_LATER) <= theirs <= ours:
        raise UserError(
            f"{path}: records of {', '.join(sorted(theirs))}; expected a data set that "
            f"tfds_builder wrote, with records of {', '.join(sorted(ours))}"
        )
    for info in builder.info.splits.values():
        files = [pathlib.Path(file) for file in info.filepaths]
        size = sum(file.stat().st_size for file in files if file.is_file())
        if size != info.num_bytes:
            raise UserError(
                f"{path}: {size:,} bytes of {info.name!r}, expected {info.num_bytes:,}: part of it "
                "is missing; copy or build it again"
            )
    return builder


def _splits(builder: Any) -> dict[str, int]:
    found = {
        name.replace("_", "-"): info.num_examples for name, info in builder.info.splits.items()
    }
    order = dict.fromkeys((*SPLITS, *found))  # a task of the user's own may have others
    return {split: found[split] for split in order if split in found}


def _features() -> Any:
    import numpy as np
    import tensorflow_datasets as tfds

    # Plain bytes, because TensorFlow decodes the picture type of TFDS.
    pictures = tfds.features.Tensor(shape=(None,), dtype=np.object_)
    texts = {name: tfds.features.Text() for name in (*_TEXTS, *_LATER)}
    return tfds.features.FeaturesDict({"images": pictures, **texts})


def _write(
    file: str, split: str, examples: Sequence[Example], features: Any
) -> tuple[int, collections.Counter[str], BadSample | None]:
    """Write one split; return the number written, the numbers left out, the first left out."""
    from array_record.python.array_record_module import ArrayRecordWriter

    written, skipped, first = 0, collections.Counter(), None
    # A group is read and decompressed together, so single records are best for random access.
    with (
        contextlib.closing(ArrayRecordWriter(file, "group_size:1")) as writer,
        Progress(split, total=len(examples)) as progress,
    ):
        for index in range(len(examples)):
            example = examples[index]
            try:
                if isinstance(example, BadSample):  # a record that its reader couldn't use
                    raise BadSample(example.cause, str(example))
                writer.write(features.serialize_example(features.encode_example(_record(example))))
                written += 1
            except BadSample as error:
                skipped[error.cause] += 1
                where = "" if isinstance(example, BadSample) else f"sample {example.id}: "
                first = first or BadSample(error.cause, f"{where}{error}")
            progress.update(index + 1)
    return written, skipped, first


def _record(example: Example) -> dict[str, Any]:
    try:
        record: dict[str, Any] = {
            name: _text(getattr(example, name)).encode() for name in (*_TEXTS, *_LATER)
        }
    except UnicodeEncodeError as error:  # Half a surrogate pair, which JSON can spell.
        raise BadSample("malformed", f"a text that is not Unicode: {error.object!r:.60}") from None
    record["images"] = [_file_bytes(picture) for picture in example.images]
    size = sum(map(len, record["images"]))
    if size > _MAX_RECORD_BYTES:
        raise BadSample(
            "picture", f"{size:,} bytes of pictures are more than {_MAX_RECORD_BYTES:,}"
        )
    return record


def _text(value: Any) -> str:
    """Return a field of an example as a text: numbers with spaces between, a mapping as JSON."""
    if isinstance(value, Mapping):
        return json.dumps(dict(value), ensure_ascii=False)
    return " ".join(map(str, value)) if isinstance(value, tuple) else value or ""


def _file_bytes(picture: Any) -> bytes:
    opened = open_image(picture)
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | os.PathLike):
        return pathlib.Path(picture).read_bytes()
    png = io.BytesIO()
    # RGB, because PNG can hold it and the image processor would convert to it anyway.
    opened.convert("RGB").save(png, "PNG")
    return png.getvalue()


def _unfinished(out: pathlib.Path) -> pathlib.Path:
    return out.parent / f"{out.name}.building"


@contextlib.contextmanager
def _complete_or_gone(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a folder to write into; it becomes `out` unless an error ends the block."""
    if out.exists():
        raise UserError(f"{out}: there already; give another --out, or delete it")
    folder = _unfinished(out)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            # The system releases the lock, however this process ends.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another build is writing it; give another --out") from None
        for left in folder.iterdir():
            left.unlink()
        try:
            yield folder
            folder.rename(out)
        except BaseException:
            shutil.rmtree(folder)
            raise
    finally:
        os.close(handle)


def _sources(args: argparse.Namespace) -> dict[str, Sequence[Example]]:
    """Return the splits to write, cut to the numbers on the command line."""

    def limit(split: str) -> int | None:
        return args.train if split == "train" else args.test

    if not args.path:
        numbers = {
            split: (1000 if split == "train" else 100) if limit(split) is None else limit(split)
            for split in find(args.task).splits
        }
        return {
            split: drawn.DrawnSource(args.task, split, args.seed, 0, number, args.size)
            for split, number in numbers.items()
            if number
        }
    files = find_splits(args.path, args.task)
    wanted = [split for split in files if limit(split) != 0]
    say("data: " + ", ".join(f"{split} from {shown(files[split])}" for split in wanted))
    if len({files[split] for split in wanted}) < len(wanted):
        say("data: one file serves several splits: --train=0 or --test=0 leaves one out")
    return {
        split: read_examples(
            args.path, args.task, split, args.image_root, columns=dict(args.columns)
        )[: limit(split)]
        for split in wanted
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.data.tfds_builder"), description=__doc__.splitlines()[0]
    )
    parser.add_argument("--task", required=True, help=f"one of {', '.join(TASKS)}, custom, ...")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder to make")
    parser.add_argument("--path", default="", help="a folder or file of samples; none: drawn ones")
    parser.add_argument("--image_root", default="", help="where the samples' picture paths start")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        type=lambda text: tuple(text.split("=", 1)),
        metavar="PART=COLUMN",
        help="as data.columns of a config",
    )
    parser.add_argument("--train", type=int, help="training samples; default: all, or 1000 drawn")
    parser.add_argument("--test", type=int, help="of each held-out split; all, or 100 drawn")
    parser.add_argument("--size", type=int, default=drawn.SIZE, help="a drawn picture's side")
    parser.add_argument("--seed", type=int, default=0, help="of drawn samples")
    args = parser.parse_args(argv)
    out = args.out.expanduser()
    args.path, args.image_root = map(os.path.expanduser, (args.path, args.image_root))
    try:
        if min(args.train or 0, args.test or 0) < 0 or args.size < 28:
            raise UserError("expected --train and --test of 0 or more, --size of 28 or more")
        find(args.task)
        if any(len(pair) != 2 for pair in args.columns):
            raise UserError("--columns: expected PART=COLUMN, such as problem=caption")
        build(out, _sources(args))
        held = ", ".join(f"{number:,} {split}" for split, number in splits(out).items())
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"tfds:{out}: {held}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
