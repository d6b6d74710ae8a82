"""What the tests of sources and of their places share: configs, and files of rows."""

import json

from configs import grpo


def config_of(arg="", make=grpo, **data):
    config = make.get_config(arg)
    config.data.activation_samples = 3
    config.data.update(data)
    return config.lock()


def write_rows(path, number, name="row", **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"{name}{i}", "problem": "How many?", "answer": str(i), "cot": "One."} | fields
        for i in range(number)
    ]
    path.write_text(json.dumps(rows))
    return path


def row_ids(sources):
    return [[example.id for example in source.examples] for source in sources]


def numbered(name, *numbers):
    return [f"{name}{i}" for i in range(*numbers)]


def write_published(folder):
    """Write a folder in the published layout; return it."""
    write_rows(folder / "train_jsons/A3-Visual-Counting-train-35k-cot.json", 5, "count")
    write_rows(folder / "train_jsons/A2-Structure-Perception-train-4k5-cot.json", 5, "see")
    write_rows(folder / "train_jsons/AI2D-train-cot.json", 5, "ai2d")
    write_rows(folder / "test_jsons/Visual-Counting-id-test-1k.json", 4, "id")
    write_rows(folder / "test_jsons/Visual-Counting-ood-test-1k.json", 4, "ood")
    write_rows(folder / "test_jsons/Structure-Perception-id-test-820.json", 4, "see-id")
    return folder
