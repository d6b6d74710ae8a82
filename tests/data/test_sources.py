"""What a config names becomes the samples of its stages and splits."""

import json

import pytest

from configs import eval as evaluation
from configs import grpo, sft
from rrft_jax import settings
from rrft_jax.data import BadSample, Example
from rrft_jax.data.drawn import SIZE, TINY_SIZE, DrawnSource
from rrft_jax.data.sources import DRAWN_TEST, DRAWN_TRAINING, Data
from rrft_jax.data.tfds_builder import build
from rrft_jax.errors import UserError
from rrft_jax.tasks import custom
from tests.sources import config_of, numbered, row_ids, write_published, write_rows

COUNTING, STRUCTURE, TRANSFORMATION = (
    "visual_counting",
    "structure_perception",
    "spatial_transformation",
)


@pytest.fixture
def published(tmp_path):
    return write_published(tmp_path / "published")


def test_without_a_path_everything_is_drawn():
    data = Data.open(config_of())

    def drawn(split, seed, start, stop):
        return DrawnSource(COUNTING, split, seed, start, stop, TINY_SIZE)

    (first,), (rest,) = data.training["sft"], data.training["grpo"]
    assert first.examples == drawn("train", 0, 0, 3)
    assert rest.examples == drawn("train", 0, 3, 3 + DRAWN_TRAINING)
    assert (first.rewards, first.weight) == (None, 0)
    assert list(data.splits) == ["id", "ood"]
    (source,) = data.splits["ood"]
    assert source.examples == drawn("ood", 0, 0, DRAWN_TEST)


def test_drawn_pictures_follow_the_seed_and_the_model_but_held_out_ones_no_seed():
    config = config_of("model=2b,paradigm=reason_rft_zero").unlock()
    config.seed, config.eval.samples = 7, 2
    data = Data.open(config)
    (source,) = data.training["grpo"]
    expected = DrawnSource(COUNTING, "train", 7, 0, DRAWN_TRAINING, SIZE)
    assert list(data.training) == ["grpo"] and source.examples == expected
    assert data.splits["id"][0].examples == DrawnSource(COUNTING, "id", 0, 0, 2, SIZE)


@pytest.mark.parametrize("samples", [5, 4])
def test_the_first_training_samples_alone_are_used(published, samples):
    """So the samples of a smaller run are among those of a larger one, drawn or not."""
    files = Data.open(config_of(path=str(published), samples=samples))
    drawn = Data.open(config_of(samples=samples))
    for stage, ends in (("sft", (0, 3)), ("grpo", (3, samples))):
        assert row_ids(files.training[stage]) == [numbered("count", *ends)]
        (source,) = drawn.training[stage]
        assert source.examples == DrawnSource(COUNTING, "train", 0, *ends, TINY_SIZE)
    for paradigm in ("cot_sft", "ans_sft"):
        (source,) = Data.open(config_of(f"paradigm={paradigm}", sft, samples=samples)).training[
            "sft"
        ]
        assert len(source.examples) == samples


def test_more_training_samples_than_there_are_is_an_error(published):
    with pytest.raises(UserError, match="data.samples=6: there are 5 training samples"):
        Data.open(config_of(path=str(published), samples=6))


def test_the_first_samples_wake_reasoning_up_and_the_rest_reinforce_it(published, capsys):
    data = Data.open(config_of(path=str(published)))
    assert row_ids(data.training["sft"]) == [numbered("count", 3)]
    assert row_ids(data.training["grpo"]) == [numbered("count", 3, 5)]
    assert {name: row_ids(sources) for name, sources in data.splits.items()} == {
        "id": [numbered("id", 4)],
        "ood": [numbered("ood", 4)],
    }
    said = capsys.readouterr().err
    assert f"data: train from {published}/train_jsons/A3-Visual" in said


def test_structure_perception_reinforces_on_all(published):
    data = Data.open(config_of(f"task={STRUCTURE}", path=str(published)))
    assert row_ids(data.training["sft"]) == [numbered("see", 3)]
    assert row_ids(data.training["grpo"]) == [numbered("see", 5)]


def test_other_paradigms_train_on_all(published):
    for paradigm in ("cot_sft", "ans_sft"):
        data = Data.open(config_of(f"paradigm={paradigm}", sft, path=str(published)))
        assert row_ids(data.training["sft"]) == [numbered("count", 5)]
        assert list(data.training) == ["sft"]
    data = Data.open(config_of("paradigm=reason_rft_zero", path=str(published)))
    assert row_ids(data.training["grpo"]) == [numbered("count", 5)]


def test_grpo_takes_all_where_sft_leaves_nothing(tmp_path, capsys):
    path = write_rows(tmp_path / "few.json", 3)
    data = Data.open(config_of(path=str(path)))
    assert row_ids(data.training["sft"]) == row_ids(data.training["grpo"]) == [numbered("row", 3)]
    said = capsys.readouterr().err
    assert "3 samples, all of them for SFT: GRPO uses them too" in said
    assert "not that of held-out data" in said


def test_malformed_rows_keep_their_places(tmp_path):
    path = write_rows(tmp_path / "data.json", 5)
    rows = json.loads(path.read_text())
    del rows[1]["answer"]
    path.write_text(json.dumps(rows))
    data = Data.open(config_of(path=str(path)))
    first, bad, third = data.training["sft"][0].examples
    assert isinstance(bad, BadSample) and (first.id, third.id) == ("row0", "row2")
    assert row_ids(data.training["grpo"]) == [["row3", "row4"]]


def test_missing_thoughts_are_counted(tmp_path, capsys):
    path = write_rows(tmp_path / "data.json", 5, cot="")
    Data.open(config_of(path=str(path)))
    assert "3 of the 3 samples of SFT have no chain of thought" in capsys.readouterr().err
    Data.open(config_of("paradigm=ans_sft", sft, path=str(path)))
    assert "chain" not in capsys.readouterr().err


def test_splits_without_a_picture_are_said(published, tmp_path, capsys):
    Data.open(config_of(path=str(published)))
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert [line.partition("; ")[0] for line in said] == [
        f"data: warning: none of {number} samples of {split} has a picture"
        for number, split in ((5, "train"), (4, "id"), (4, "ood"))
    ]
    for fields in ({"image": "lost.png"}, {"img_path": ["a.png", "b.png"]}):
        path = write_rows(tmp_path / "seen.json", 3, **fields)
        Data.open(config_of(path=str(path)))
        assert "warning" not in capsys.readouterr().err
    path.write_text(json.dumps([*json.loads(path.read_text()), {"problem": "?", "answer": "1"}]))
    Data.open(config_of(path=str(path)))
    assert "warning" not in capsys.readouterr().err
    build(tmp_path / "b", {"train": [Example("a", (), "How many?", "1", "One.", COUNTING)] * 4})
    Data.open(config_of(source=f"tfds:{tmp_path}/b"))
    assert "data: warning: none of 4 samples of train has a picture" in capsys.readouterr().err


def test_a_named_file_is_trained_on_and_the_task_s_tests_stay(published):
    data = Data.open(config_of(path=str(published), file="ai2d"))
    assert row_ids(data.training["sft"]) == [numbered("ai2d", 3)]
    assert data.training["sft"][0].examples[0].task == COUNTING
    assert row_ids(data.splits["id"]) == [numbered("id", 4)]


def test_held_out_samples_alone(published, tmp_path):
    config = config_of("", evaluation, path=str(published)).unlock()
    config.eval.samples = 2
    data = Data.open(config)
    assert data.training == {} and row_ids(data.splits["ood"]) == [numbered("ood", 2)]
    write_rows(tmp_path / "train/Visual-Counting-train.json", 2)
    with pytest.raises(UserError, match="train: no test split of visual_counting"):
        Data.open(config_of("", evaluation, path=str(tmp_path / "train")))
    tested = write_rows(tmp_path / "t/Visual-Counting-id-test.json", 1)
    with pytest.raises(UserError, match="no training file for visual_counting"):
        Data.open(config_of(path=str(tested.parent)))


def _evaluate(tasks, arg="", make=evaluation, **data):
    config = config_of(arg, make, **data).unlock()
    config.eval.tasks = tasks
    return config.lock()


def test_several_tasks_are_held_out_under_their_names(published):
    data = Data.open(_evaluate((STRUCTURE, COUNTING), path=str(published)))
    assert {name: row_ids(sources) for name, sources in data.splits.items()} == {
        f"{STRUCTURE}/id": [numbered("see-id", 4)],
        f"{COUNTING}/id": [numbered("id", 4)],
        f"{COUNTING}/ood": [numbered("ood", 4)],
    }
    assert list(data.splits)[0] == f"{STRUCTURE}/id"
    assert data.splits[f"{STRUCTURE}/id"][0].examples[0].task == STRUCTURE
    with pytest.raises(UserError, match="no samples for spatial_transformation"):
        Data.open(_evaluate((COUNTING, TRANSFORMATION), path=str(published)))


def test_another_task_is_held_out_while_one_is_trained(published):
    data = Data.open(_evaluate((STRUCTURE,), make=grpo, path=str(published)))
    assert row_ids(data.training["sft"]) == [numbered("count", 3)]
    assert list(data.splits) == [f"{STRUCTURE}/id"]
    own = Data.open(_evaluate((COUNTING,), path=str(published)))
    assert list(own.splits) == ["id", "ood"]


def test_drawn_tasks_are_held_out_each_with_its_own_words():
    data = Data.open(_evaluate((COUNTING, TRANSFORMATION), f"task={TRANSFORMATION}"))
    assert list(data.splits) == [
        f"{COUNTING}/id",
        f"{COUNTING}/ood",
        *(f"{TRANSFORMATION}/{split}" for split in ("id", "ood-left", "ood-right")),
    ]
    variants = {name: source.prompts.variant for name, (source,) in data.splits.items()}
    assert variants[f"{COUNTING}/id"] == "" and variants[f"{TRANSFORMATION}/id"] == "brief"


def test_one_file_is_of_one_task(published):
    file = published / "test_jsons/Visual-Counting-id-test-1k.json"
    with pytest.raises(UserError, match="a file of one task; expected a folder for the eval.tasks"):
        Data.open(_evaluate((COUNTING, STRUCTURE), path=str(file)))


def test_no_held_out_samples_are_said(tmp_path, capsys):
    write_rows(tmp_path / "Visual-Counting-train.json", 5)
    assert Data.open(config_of(path=str(tmp_path))).splits == {}
    assert "nothing is held out" in capsys.readouterr().err


def test_a_tfds_build(tmp_path, monkeypatch):
    def examples(name, number):
        return [
            Example(f"{name}{i}", (), "How many?", "1", "One.", COUNTING) for i in range(number)
        ]

    splits = {"train": examples("row", 5), "ood": examples("ood", 4)}
    build(tmp_path / "built", splits)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path / "built", "~/built"):
        data = Data.open(config_of(source=f"tfds:{folder}"))
        assert row_ids(data.training["sft"]) == [numbered("row", 3)]
        assert row_ids(data.training["grpo"]) == [numbered("row", 3, 5)]
        assert {name: row_ids(sources) for name, sources in data.splits.items()} == {
            "ood": [numbered("ood", 4)]
        }
    with pytest.raises(UserError, match="samples of visual_counting, expected structure_percep"):
        Data.open(config_of(f"task={STRUCTURE}", source=f"tfds:{tmp_path}/built"))
    with pytest.raises(UserError, match="no such folder"):
        Data.open(config_of(source=f"tfds:{tmp_path}/none"))


@pytest.mark.parametrize("number, said", [(3, False), (2, True)])
def test_targets_that_lack_a_caption_are_said(tmp_path, capsys, number, said):
    reply = "<summary>a</summary><caption>b</caption><think>c</think>"
    path = write_rows(tmp_path / "a.json", 3, answer="change_size(1, 'small')", cot=reply)
    rows = json.loads(path.read_text())
    for row in rows[number:]:
        row["cot"] = "c"
    path.write_text(json.dumps(rows))
    Data.open(config_of(f"task={TRANSFORMATION}", path=str(path), variant="caption"))
    assert ("asks for a summary and a caption" in capsys.readouterr().err) == said


def _custom(tmp_path, rows, **fields):
    for split in ("train", "id-test"):
        (tmp_path / f"Custom-{split}.json").write_text(json.dumps(rows))
    config = grpo.get_config("task=custom,paradigm=reason_rft_zero")
    config.data.path = str(tmp_path)
    for key, value in fields.items():
        config.custom[key] = value
    return Data.open(settings.make(config.to_dict()))


def test_a_custom_task_takes_rows_without_an_answer(tmp_path):
    row = {"problem": "Where?", "boxes": [1, 2]}
    data = _custom(tmp_path, [row, row | {"answer": [10, 10]}, row | {"answer": "a dog"}])
    for sources in (data.training["grpo"], data.splits["id"]):
        (source,) = sources
        assert [example.answer for example in source.examples] == ["", "[10, 10]", "a dog"]
        assert all(example.extra == {"boxes": [1, 2]} for example in source.examples)
    assert source.prompts.replaced == {"custom": custom.INSTRUCTION}


def test_answers_of_another_kind_are_left_out_and_said(tmp_path):
    rows = [{"problem": "How many?", "answer": answer} for answer in ("3", "a dog")]
    rows += [{"problem": "How many?"}]
    data = _custom(tmp_path, rows, answers="number", instruction="Count.")
    (source,) = data.training["grpo"]
    good, *bad = (source.examples[i] for i in range(3))
    assert good.answer == "3" and len(source.examples[1:]) == 2
    for found, said in zip(bad, ("'a dog'", "''")):
        assert isinstance(found, BadSample) and found.cause == "malformed"
        assert f"the answer is {said}; expected a number, as custom.answers=number" in str(found)
    assert source.prompts.replaced == {"custom": "Count."}


def test_the_splits_to_evaluate_are_chosen_in_their_order():
    config = evaluation.get_config()
    config.eval.splits = ("ood", "id")
    assert list(Data.open(settings.make(config.to_dict())).splits) == ["ood", "id"]
    config.eval.splits = ("test",)
    with pytest.raises(UserError, match="--config.eval.splits=test: expected one of id, ood"):
        Data.open(settings.make(config.to_dict()))


def test_drawings_of_an_own_task_carry_the_name_that_finds_it(tmp_path, monkeypatch):
    (tmp_path / "drawn_of_sources.py").write_text(
        "import dataclasses\nfrom rrft_jax.tasks import TASKS\n"
        "TASK = dataclasses.replace(next(iter(TASKS.values())), name='squares')\n"
    )
    (tmp_path / "mine_of_sources").mkdir()
    (tmp_path / "drawn_of_sources.py").rename(tmp_path / "mine_of_sources/drawn.py")
    monkeypatch.syspath_prepend(tmp_path)
    name = "mine_of_sources.drawn"
    assert DrawnSource(name, "train", 0, 0, 1, TINY_SIZE)[0].task == name


def test_a_custom_task_has_the_splits_of_its_files_and_an_own_task_those_it_names(
    tmp_path, monkeypatch
):
    for name in ("train", "val", "test", "night"):
        write_rows(tmp_path / f"rows-{name}.json", 1, name)
    (tmp_path / "mine_of_splits").mkdir()
    (tmp_path / "mine_of_splits/day.py").write_text(
        "from rrft_jax.tasks import Task, Wording\n"
        "TASK = Task(name='day', wording=Wording({'': ''}, {'': ''}), rewards={'format': 1},\n"
        "            splits=('train', 'night', 'test'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = evaluation.get_config("task=mine_of_splits.day")
    config.data.path = str(tmp_path)
    assert list(Data.open(config).splits) == ["validation", "test", "night"]
    (tmp_path / "rows-night.json").unlink()
    config = evaluation.get_config("task=custom")
    config.data.path = str(tmp_path)
    assert list(Data.open(config).splits) == ["validation", "test"]


@pytest.mark.parametrize("make, warned", [(grpo, True), (evaluation, False)])
def test_one_file_for_all_is_said_with_a_cure_where_it_trains(tmp_path, capsys, make, warned):
    path = write_rows(tmp_path / "a.json", 5)
    Data.open(config_of(path=str(path)) if make is grpo else _evaluated(path))
    said = capsys.readouterr().err
    assert ("id is trained on too" in said and "test.jsonl beside train.jsonl" in said) == warned


def _evaluated(path):
    config = evaluation.get_config("")
    config.data.path = str(path)
    return config.lock()


def test_a_folder_without_held_out_files_is_said_with_a_cure(tmp_path, capsys):
    write_rows(tmp_path / "train.json", 5)
    assert Data.open(config_of(path=str(tmp_path))).splits == {}
    said = capsys.readouterr().err
    assert "nothing is held out" in said and "put 'test' or 'validation' into the name" in said


def test_validation_and_test_files_are_splits_of_their_own(tmp_path):
    for name in ("train", "val", "test", "ood"):
        write_rows(tmp_path / f"{name}.json", 2, name)
    data = Data.open(config_of(path=str(tmp_path)))
    assert {name: row_ids(sources)[0][0] for name, sources in data.splits.items()} == {
        "validation": "val0", "id": "test0", "ood": "ood0"
    }  # fmt: skip


def test_a_split_without_answers_is_said_with_its_other_columns(tmp_path, capsys):
    for answers, said in (("", True), ("2", False)):
        rows = [{"question": "How many?", "image": "a.png", "truth": {"n": 2}, "answer": ""}] * 4
        rows[-1] = rows[-1] | {"answer": answers}
        (tmp_path / "a.json").write_text(json.dumps(rows))
        Data.open(config_of("task=custom", path=str(tmp_path / "a.json")))
        error = capsys.readouterr().err
        assert ("none of 4 samples of train has an answer; it stands under" in error) == said
        assert (
            "data.columns.answer=COLUMN names its column; the other columns are tru" in error
        ) == said
