"""The config's own place and the entries of a mixture become the sources of training."""

import json

import pytest

from rrft_jax.data import Example
from rrft_jax.data.drawn import TINY_SIZE, DrawnSource
from rrft_jax.data.sources import DRAWN_TRAINING, Data
from rrft_jax.data.tfds_builder import build
from rrft_jax.errors import UserError
from tests.sources import config_of, numbered, row_ids, write_published, write_rows

COUNTING, STRUCTURE, TRANSFORMATION = (
    "visual_counting",
    "structure_perception",
    "spatial_transformation",
)


@pytest.fixture
def published(tmp_path):
    return write_published(tmp_path / "published")


@pytest.fixture
def mixture(tmp_path):
    """`mixture(entries)` is the config with such a file; text goes in as it is."""

    def make(entries, arg="", name="mix.yaml", **data):
        path = tmp_path / name
        path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
        return config_of(arg, mixture=str(path), **data)

    return make


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"source": "arrayrecord:x"}, "data.source=arrayrecord:x: expected tfds:DIR, or nothing"),
        ({"source": "tfds:"}, "data.source=tfds:: expected tfds:DIR"),
        ({"source": "tfds:x", "path": "y"}, "data.path=y and source=tfds:x: expected one of them"),
        ({"file": "ai2d"}, "data.file=ai2d: no path"),
        ({"path": "nowhere"}, "nowhere: no such file or folder"),
        ({"path": ".", "columns": {"label": "y"}}, "data.columns.label: no part of a sample; exp"),
        ({"path": ".", "columns": {"answer": 7}}, "data.columns.answer is 7; expected the name"),
        ({"columns": {"answer": "y"}}, "data.columns={'answer': 'y'}: no effect"),
        ({"mixture": "nowhere.yaml"}, "data.mixture=nowhere.yaml: expected a JSON or YAML list"),
    ],
)
def test_mistakes_in_the_config(fields, message):
    with pytest.raises(UserError) as error:
        Data.open(config_of(**fields))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_an_entry_of_another_task_has_the_usual_rewards_of_that_task(mixture, published):
    config = mixture(
        """
        - path: published
        - {path: published, file: ai2d, task: structure_perception}
        """,
        path=str(published),
    )
    rewards = [source.rewards for source in Data.open(config).training["grpo"]]
    assert rewards == [None, {"math_accuracy": 1, "format": 1}]


def test_a_mixture_takes_a_part_of_every_source(mixture, published, tmp_path):
    write_rows(tmp_path / "own.json", 5, "own")
    (tmp_path / "words.yaml").write_text("structure_perception.value: Look.\n")
    config = mixture(
        """
        - path: published            # relative to this file
          weight: 3
        - path: published
          file: ai2d
          task: structure_perception
          weight: 1
          rewards: {math_accuracy: 1, format: -0.5}
          prompts: words.yaml
        - {path: own.json, system_prompt: Be brief., weight: 0.5}
        - {path: "", weight: 2}
        """,
        path=str(published),
    )
    data = Data.open(config)
    assert [source.weight for source in data.training["grpo"]] == [3, 1, 0.5, 2]
    assert row_ids(data.training["sft"][:3]) == [numbered(n, 3) for n in ("count", "ai2d", "own")]
    # Structure perception reinforces on everything here too.
    rest = [numbered("count", 3, 5), numbered("ai2d", 5), numbered("own", 3, 5)]
    assert row_ids(data.training["grpo"][:3]) == rest
    drawn = data.training["grpo"][3].examples
    assert drawn == DrawnSource(COUNTING, "train", 0, 3, 3 + DRAWN_TRAINING, TINY_SIZE)
    tasks = [source.examples[0].task for source in data.training["sft"]]
    assert tasks == [COUNTING, STRUCTURE, COUNTING, COUNTING]
    rewards = [source.rewards for source in data.training["grpo"]]
    assert rewards == [None, {"math_accuracy": 1, "format": -0.5}, None, None]
    _, structure, own, _ = (source.prompts for source in data.training["grpo"])
    assert (
        structure.replaced == {"structure_perception.value": "Look."} and own.system == "Be brief."
    )
    # data.path says what is held out.
    assert {name: row_ids(sources) for name, sources in data.splits.items()} == {
        "id": [numbered("id", 4)],
        "ood": [numbered("ood", 4)],
    }


def test_a_mixture_without_a_path_holds_out_what_belongs_to_its_places(mixture, published):
    folder = str(published)
    entries = [
        {"path": folder},
        {"path": folder, "file": "ai2d", "system_prompt": "Not of the held-out ones."},
        {"path": folder, "task": STRUCTURE, "prompts": ""},
    ]
    config = mixture(entries, name="mix.json", system_prompt="Look.")
    data = Data.open(config)
    assert row_ids(data.training["sft"]) == [numbered(n, 3) for n in ("count", "ai2d", "see")]
    assert [source.weight for source in data.training["sft"]] == [0, 0, 0]
    assert {name: row_ids(sources) for name, sources in data.splits.items()} == {
        "id": [numbered("id", 4), numbered("see-id", 4)],
        "ood": [numbered("ood", 4)],
    }
    tested = [source.prompts.system for source in data.splits["id"]]
    assert tested == ["Look.", "Look."]


def test_of_a_mixture_s_places_those_of_the_chosen_tasks_are_held_out(mixture, published):
    entries = [{"path": str(published)}, {"path": str(published), "task": STRUCTURE}]
    config = mixture(entries).unlock()
    config.eval.tasks = (STRUCTURE,)
    assert list(Data.open(config).splits) == [f"{STRUCTURE}/id"]


def test_an_entry_takes_from_the_config_what_it_lacks(mixture, published, tmp_path):
    (tmp_path / "pictures").mkdir()
    write_rows(tmp_path / "own.json", 4, "own", image="a.png")
    entries = [{}, {"file": ""}, {"path": "own.json"}, {"path": "", "task": TRANSFORMATION}]
    config = mixture(
        entries, path=str(published), file="ai2d", image_root=str(tmp_path / "pictures")
    )
    data = Data.open(config)
    assert row_ids(data.training["sft"][:3]) == [numbered(n, 3) for n in ("ai2d", "count", "own")]
    assert data.training["sft"][2].examples[0].images == (str(tmp_path / "pictures/a.png"),)
    assert data.training["sft"][3].examples.task == TRANSFORMATION


def test_columns_are_those_of_the_config_or_of_the_entry(mixture, tmp_path):
    for name, key in (("a", "caption"), ("b", "text")):
        rows = [{"id": name, key: "How many?", "answer": "1", "cot": "One.", "n": 1}] * 2
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    entries = [{"path": "a.json"}, {"path": "b.json", "columns": {"problem": "text"}}, {"path": ""}]
    data = Data.open(mixture(entries, columns={"problem": "caption"}))
    first, second, _ = (source.examples[0] for source in data.training["sft"])
    assert (first.problem, second.problem) == ("How many?", "How many?")
    assert first.extra == second.extra == {"n": 1}


def test_a_variant_belongs_to_its_task(mixture, capsys):
    entries = [{}, {"task": COUNTING}, {"variant": ""}]
    data = Data.open(mixture(entries, f"task={TRANSFORMATION}", variant="caption"))
    assert [source.prompts.variant for source in data.training["sft"]] == ["caption", "", ""]
    assert capsys.readouterr().err.count("asks for a summary and a caption") == 1


def test_a_tfds_build_in_a_mixture(mixture, tmp_path):
    build(tmp_path / "b", {"train": [Example("a", (), "How many?", "1", "One.", COUNTING)] * 4})
    data = Data.open(mixture([{"source": "tfds:b"}]))
    assert row_ids(data.training["sft"]) == [["a"] * 3] and data.splits == {}


@pytest.mark.parametrize(
    "entries, message",
    [
        ("[{path: a", "expected a JSON or YAML list of entries: "),
        ("path: a", "expected a JSON or YAML list of entries, found dict"),
        ("[]", "expected a JSON or YAML list of entries, found none"),
        (["a"], "entry 1: expected a mapping of path, source, "),
        ([{}, {"paths": "a"}], "entry 2: unknown key 'paths'; expected one of path, source, "),
        ([{}, {"where": "a"}], "entry 2: unknown key 'where'"),
        ([{}, {"path": 7}], "entry 2: path is 7; expected a text"),
        ([{"path": None}], "entry 1: path is None; expected a text"),
        ([{"weight": 0}], "entry 1: weight is 0; expected a number above 0"),
        ([{"weight": -1}], "entry 1: weight is -1; expected"),
        ([{"weight": "2"}], "entry 1: weight is '2'; expected"),
        ([{"weight": True}], "entry 1: weight is True; expected"),
        ("[{weight: .nan}]", "entry 1: weight is nan; expected"),
        ("[{weight: .inf}]", "entry 1: weight is inf; expected"),
        ([{"weight": 1}, {}], "entry 2: no 'weight'; expected one in every entry, or in none"),
        ([{"task": "chess"}], "entry 1: task 'chess' is unknown; choose one of visual_count"),
        ([{"rewards": {"luck": 1}}], "entry 1: rewards.luck: reward 'luck': expected one of"),
        ([{"rewards": {"format": "1"}}], "entry 1: rewards.format: expected a weight, found"),
        ([{"rewards": {}}], "entry 1: rewards is {}; expected"),
        ([{"rewards": ["format"]}], "entry 1: rewards is ['format']; expected"),
        ([{"path": "none"}], "none: no such file or folder"),
        ([{"path": "a", "source": "tfds:b"}], "entry 1: path=/"),
        ([{"source": "b"}], "entry 1: source=b: expected tfds:DIR"),
        ([{"source": "tfds:none"}], "entry 1: /"),
        ([{"file": "a"}], "entry 1: file=a: no path"),
        ([{"columns": "a"}], "entry 1: columns is 'a'; expected a mapping"),
        ([{"columns": {"label": "a"}}], "entry 1: columns.label: no part of a sample"),
        ([{"variant": "caption"}], "entry 1: data.variant=caption: only spatial_transformation"),
        ([{"prompts": "none.yaml"}], "entry 1: data.prompts=/"),
    ],
)
def test_mistakes_in_a_mixture_are_named(mixture, tmp_path, entries, message):
    with pytest.raises(UserError) as error:
        Data.open(mixture(entries))
    text = str(error.value)
    assert str(tmp_path / "mix.yaml") in text and message in text and "\n" not in text
