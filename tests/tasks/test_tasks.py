"""The records of the tasks: complete, light to import, and the only place that names a task."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from configs import grpo
from rrft_jax import rewards, tasks
from rrft_jax.data.drawn import DrawnSource
from rrft_jax.errors import UserError
from rrft_jax.tasks import SPLITS, TASKS
from rrft_jax.tasks.answers import KINDS

PACKAGE = Path(tasks.__file__).resolve().parents[1]


def test_the_order_of_tasks_and_splits():
    assert list(TASKS) == list(tasks.FILES)
    assert list(TASKS) == ["visual_counting", "structure_perception", "spatial_transformation"]
    assert SPLITS == ("train", "validation", "id", "ood", "ood-left", "ood-right", "test")


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_record_is_complete(task):
    assert set(task.rewards) <= set(rewards.names())
    assert task.splits == ("train", *task.held_out)
    for split in task.splits:
        example = task.sample(split, 0, 0, 28)
        assert example.task == task.name and example.cot
        assert task.answers.readable(example.answer)
        assert task.answers.score(example.answer, example.answer) == 1
    wording = task.wording
    assert {*wording.nearest, *wording.nearest.values(), *wording.variants} <= {
        *wording.instructions
    }
    assert {*wording.instructions} - {*wording.zero_shot} == {*wording.prefaced}
    for rows in task.paper.rows.values():
        assert {len(values) for values in rows.values()} == {len(task.paper.columns)}
    assert {split for split, _ in task.paper.columns} == {*task.held_out}


def test_answers_without_a_task_are_told_apart():
    def guessed(answer, answers):
        return [
            n for n, task in TASKS.items() if task.recognizes and task.recognizes(answer, answers)
        ]

    assert guessed("3", {"3", "4"}) == []
    assert guessed("3", {"3", "B"}) == ["structure_perception"]
    assert guessed("f(1, 'a')", {"f(1, 'a')", "B"}) == ["spatial_transformation"]


def test_an_unknown_task_lists_those_that_exist():
    with pytest.raises(UserError, match="'counting' is unknown; choose one of visual_counting, s"):
        tasks.find("counting")


def test_a_task_may_have_no_drawings(monkeypatch):
    bare = dataclasses.replace(TASKS["visual_counting"], name="bare", sample=None)
    monkeypatch.setitem(TASKS, "bare", bare)
    with pytest.raises(UserError, match="task bare draws no samples; give a data set by data.path"):
        DrawnSource("bare", "train", 0, 0, 1, 56)


def test_tasks_bring_no_jax_along():
    code = "import sys, rrft_jax.tasks; assert not {'jax', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True)


def test_no_other_code_names_a_task():
    naming = {
        str(file.relative_to(PACKAGE).parts[0])
        for file in PACKAGE.rglob("*.py")
        if any(name in file.read_text(encoding="utf-8") for name in TASKS)
    }
    assert naming <= {"tasks", "settings_page.py"}  # the latter writes a page with examples


OWN = """
from rrft_jax.tasks import Task, Wording
from rrft_jax.tasks.answers import ANY

TASK = Task(
    name="boxes", wording=Wording({"": "Give a box."}, {"": ""}), rewards={"format": 1}, answers=ANY
)
"""


def test_a_task_of_the_users_own_is_found_by_its_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "own_tasks").mkdir()
    (tmp_path / "own_tasks/boxes.py").write_text(OWN)
    (tmp_path / "own_tasks/none.py").write_text("TASK = 1")
    (tmp_path / "own_tasks/empty.py").touch()
    (tmp_path / "own_tasks/breaks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    assert tasks.find("own_tasks.boxes").wording.instructions == {"": "Give a box."}
    lone = OWN.replace('rewards={"format": 1}', 'rewards={"lone_task_file.iou": 1}')
    (tmp_path / "lone_task_file.py").write_text(lone)
    config = grpo.get_config("task=lone_task_file")
    assert config.grpo.rewards.to_dict() == {"lone_task_file.iou": 1}
    assert tasks.find(config.task).rewards == {"lone_task_file.iou": 1}
    for name, said in (
        ("own_tasks.missing", "ModuleNotFoundError: No module named"),
        ("own_tasks.none", "its TASK is int; expected a rrft_jax.tasks.Task"),
        ("own_tasks.breaks", "ZeroDivisionError"),
        ("own_tasks.empty", "has no attribute 'TASK'"),
    ):
        with pytest.raises(UserError, match=f"^task '{name}': .*{said}"):
            tasks.find(name)


def test_custom_says_nothing_of_our_tasks():
    words = [*tasks.find("custom").wording.instructions.values()]
    ours = [text for task in TASKS.values() for text in task.wording.instructions.values()]
    assert len(words) == 1 and words[0] not in ours
    assert not any(kind in words[0] for kind in ("number", "letter", "word", "call", "option"))


@pytest.mark.parametrize(
    "kind, right, wrong",
    [
        ("any", ["", "a dog", "[1]"], []),
        ("text", ["a dog", "3"], [""]),
        ("number", ["3", "-1/2", "5 cm"], ["", "B", "two dogs"]),
        ("letter", ["B", "(b)"], ["", "dog", "3"]),
        ("word", ["dog"], ["", "a dog"]),
        ("json", ["[1,2]", '{"a": 1}', "3"], ["", "dog", "[1,", "[" * 100_000]),
    ],
)
def test_kinds_of_answers(kind, right, wrong):
    readable = KINDS[kind].readable
    assert all(map(readable, right)) and not any(map(readable, wrong))
