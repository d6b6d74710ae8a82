"""Before training the run's rewards score its first samples; one that fails or refuses ends it."""

import dataclasses
import types

import pytest

from configs import eval as evaluation
from configs import grpo, sft
from rrft_jax import settings
from rrft_jax.data import Example, Prompts, Source
from rrft_jax.data.drawn import DrawnSource
from rrft_jax.data.dry_call import FIRST, check_rewards
from rrft_jax.data.sources import Data
from rrft_jax.errors import UserError

CALLS = "change_size(1, 'small')"


def _examples(number=3, task="visual_counting", **fields):
    values = {"images": (), "problem": "How many?", "answer": "2", "cot": "One, two."} | fields
    return [Example(id=f"e{n}", task=task, **values) for n in range(number)]


def _config(arg="", rewards=None, **fields):
    config = (sft if "sft" in arg else grpo).get_config(arg)
    if rewards is not None:
        config.grpo.rewards = rewards
    for key, value in fields.items():
        config.data[key] = value
    return settings.make(config.to_dict())


def check_targets(config, sources, splits=None, prompt_end="assistant\n"):
    training = {config.stages[0]: sources} if config.stages else {}
    check_rewards(config, Data(training, splits or {}), prompt_end)


def _table(text):
    """The cells of the printed table, by reward."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in cells] for cells in lines if "---" not in cells[0]]
    assert not rows or rows[0] == ["mean reward", "samples", "own answer", "empty completion"]
    return {name: " ".join(cells) for name, *cells in rows[1:]}


OWN = """
def raising(completions, example, *, step, lengths):
    raise RuntimeError("broken")

def picky(completions, example):
    return [float(len(text.split()[0])) for text in completions]

def useless(completions, example):
    pass

def short(completions, example, *, step=None, lengths):
    return [float(lengths[0] < 20) for _ in completions]
"""


@pytest.mark.parametrize(
    "task, reward",
    [
        ("visual_counting", "accuracy"),
        ("structure_perception", "math_accuracy"),
        ("spatial_transformation", "transformation"),
    ],
)
def test_the_demo_says_what_its_targets_get(capsys, task, reward):
    source = Source(DrawnSource(task, "train", 0, 0, 100, 56))
    check_targets(_config(f"task={task}"), [source])
    said = capsys.readouterr().err
    assert said.startswith("sft: what the rewards give to the first samples\n")
    assert _table(said) == dict.fromkeys((reward, "format"), f"{FIRST} 1.00 0.00")


@pytest.mark.parametrize("arg", ["paradigm=cot_sft", "paradigm=cot_sft,model=2b"])
def test_a_config_without_grpo_has_the_rewards_of_its_task(capsys, arg):
    check_targets(_config(arg), [Source(_examples(cot=None)), Source(_examples())])
    assert _table(capsys.readouterr().err) == {"accuracy": "6 1.00 0.00", "format": "6 1.00 0.00"}


def test_answers_alone_are_not_checked(capsys):
    check_targets(_config("paradigm=ans_sft"), [Source(_examples())])
    assert not capsys.readouterr().err


def test_empty_thoughts_are_no_fault_where_the_format_allows_them(capsys):
    check_targets(_config(thought_dropout=1.0), [Source(_examples(cot=None))])
    assert _table(capsys.readouterr().err)["format"] == "3 1.00 0.00"
    check_targets(_config("model=2b", thought_dropout=1.0), [Source(_examples())])
    capsys.readouterr()
    some = _examples(5, cot=None) + _examples(3)
    check_targets(_config("model=2b"), [Source(some)])
    assert _table(capsys.readouterr().err) == {"accuracy": "8 1.00 0.00", "format": "8 0.38 0.00"}


@pytest.mark.parametrize(
    "arg, rewards, fields, message",
    [
        (
            "model=2b", None, {"cot": None},
            "get 0 for the layout by the run's own format (all of the first 3): sample e0 "
            "teaches '<think>\\n\\n</think>\\n<answer>\\n2\\n</answer>'; its thought is empty",
        ),
        ("", {"format": 1, "accuracy": 1}, {"cot": " "}, "its thought is empty; give the samples"),
        ("", {"format": 1}, {"cot": "See <answer>."}, "expected each tag once, in order"),
        ("", {"choice": 1}, {"answer": "17"}, "the answer by the run's own choice"),
        ("", {"transformation_full": 1}, {}, "its answer '2' is none that this reward can count"),
        ("", {"caption_format": 1, "accuracy": 1}, {}, "has no <summary> and no <caption>"),
    ],
)  # fmt: skip
def test_targets_that_the_runs_rewards_refuse_end_it(arg, rewards, fields, message):
    config = _config(arg, rewards)
    with pytest.raises(UserError) as error:
        check_targets(config, [Source(_examples(**fields))])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_one_reward_that_likes_the_targets_is_enough(capsys):
    check_targets(_config(rewards={"choice": 1, "accuracy": 1}), [Source(_examples())])
    assert _table(capsys.readouterr().err) == {"accuracy": "3 1.00 0.00", "choice": "3 0.00 0.00"}
    check_targets(_config(rewards={"format": 1, "choice": -1}), [Source(_examples())])
    check_targets(_config(rewards={"format": 1, "choice": 0}), [Source(_examples())])


def test_captions_are_scored_in_their_variant(capsys):
    fields = {"answer": CALLS, "preface": "<summary>a</summary><caption>b</caption>"}
    source = Source(_examples(task="spatial_transformation", **fields), Prompts(variant="caption"))
    arg = "task=spatial_transformation"
    check_targets(_config(arg, {"caption_format": 1}), [source])
    assert _table(capsys.readouterr().err) == {"caption_format": "3 1.00 0.00"}
    check_targets(_config(f"{arg},paradigm=cot_sft"), [source])
    both = dict.fromkeys(("transformation_full", "caption_format"), "3 1.00 0.00")
    assert _table(capsys.readouterr().err) == both
    with pytest.raises(UserError, match="it begins with a summary and a caption; reward caption_"):
        check_targets(_config(arg, {"format": 1}), [source])


def test_each_source_has_its_own_rewards(capsys):
    own = Source(_examples(2, answer=CALLS), None, {"transformation": 1})
    check_targets(_config(rewards={"accuracy": 1}), [Source(_examples()), own])
    said = _table(capsys.readouterr().err)
    assert said == {"accuracy": "3 1.00 0.00", "transformation": "2 1.00 0.00"}


def test_one_source_among_others_that_is_refused_is_said(capsys):
    bare = Source(_examples(2, cot=None), None, {"format": 1})
    check_targets(_config(), [Source(_examples()), bare])
    said = capsys.readouterr().err
    warning = said.splitlines()[-1]
    assert warning.startswith("sft: warning: the targets of SFT get 0 for the layout by the run's")
    assert "its thought is empty" in warning
    assert _table(said) == {"accuracy": "3 1.00 0.00", "format": "5 0.60 0.00"}
    with pytest.raises(UserError, match="its thought is empty"):
        check_targets(_config(), [bare, bare])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The names of rewards of a user's own module."""
    (tmp_path / "own_of_dry_call.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: f"own_of_dry_call.{name}"


def _rows(number, **fields):
    """Rows of no class of ours, which the rewards' process would take seconds to import."""
    return [types.SimpleNamespace(**vars(example)) for example in _examples(number, **fields)]


def test_own_rewards_are_called_on_the_first_few(capsys, own):
    check_targets(_config(rewards={"format": 1, own("short"): 1}), [Source(_rows(12))])
    table = _table(capsys.readouterr().err)
    assert table == {"format": "12 1.00 0.00", own("short"): "8 1.00 1.00"}


@pytest.mark.parametrize(
    "name, message",
    [
        ("raising", "fails on sample e0 with its own answer, '<think>.*RuntimeError: broken; mend"),
        ("picky", "fails on sample e0 with an empty completion: IndexError: list index"),
        ("useless", "fails on sample e0 with .*returned None; expected one number for each"),
    ],
)
@pytest.mark.parametrize("use", ["training", "evaluation"])
def test_own_rewards_that_fail_end_the_run_at_once(own, name, message, use):
    config = _config(rewards={own(name): 1} if use == "training" else {"format": 1})
    config = dataclasses.replace(
        config, eval=dataclasses.replace(config.eval, rewards={own(name): 1})
    )
    splits = {"id": [Source(_rows(2))]} if use == "evaluation" else {}
    with pytest.raises(UserError, match=f"^reward '{own(name)}' {message}") as error:
        check_targets(config, [Source(_rows(2))], splits)
    assert "\n" not in str(error.value)


def test_reinforcement_alone_is_checked_with_a_thought_and_rows_without_answers(capsys, own):
    config = _config("task=custom,paradigm=reason_rft_zero", {"format": 1, own("short"): 0.5})
    rows = _rows(2, answer="", cot=None) + _rows(1, cot=None)
    check_targets(config, [Source(rows)])
    said = capsys.readouterr().err
    assert said.startswith("grpo: what the rewards give")
    assert _table(said) == {"format": "3 1.00 0.00", own("short"): "3 1.00 1.00"}
    check_targets(config, [Source(rows[:2])])
    assert _table(capsys.readouterr().err)["format"] == "2 – 0.00"


def test_samples_that_reinforcement_can_never_reward_are_said(capsys, own):
    rows = [Source(_rows(2, answer="") + _rows(3))]
    arg = "task=custom,paradigm=reason_rft_zero"
    check_targets(_config(arg, {"accuracy": 1}), rows)
    said = (
        "2 of the first 5 samples have no answer, and get 0 by accuracy; of task=custom, --config"
    )
    assert said in capsys.readouterr().err
    check_targets(_config(arg, {own("short"): 1}), rows)
    check_targets(_config(arg, {"accuracy": 1}), [Source(_rows(2))])
    assert "no answer" not in capsys.readouterr().err


def test_what_can_never_be_rewarded_or_learnt_or_scored_is_refused(own):
    custom = _config("task=custom,paradigm=reason_rft_zero")
    rows = Source(_rows(2, answer="", task="custom"))
    with pytest.raises(UserError, match="^accuracy: none of the first 2 samples has an answer.*=0"):
        check_targets(custom, [rows])
    with pytest.raises(UserError, match="right answers get 0 for the answer by .* choice.*e0 has"):
        check_targets(_config("paradigm=reason_rft_zero", {"choice": 1}), [Source(_examples())])
    with pytest.raises(UserError, match="^sft: none of the first 2 samples has an answer to learn"):
        check_targets(_config("task=custom"), [rows])
    config = _config("task=custom,paradigm=reason_rft_zero", {own("short"): 1})
    with pytest.raises(UserError, match=f"^val: none of .*--config.eval.rewards.{own('short')}=1"):
        check_targets(config, [rows], {"val": [rows]})


def test_evaluation_alone_is_checked_by_its_own_rewards(capsys):
    config = evaluation.get_config("paradigm=zero_shot")
    config.eval.rewards = {"accuracy": 1, "format": 1}
    config = settings.make(config.to_dict())
    check_targets(config, [], {"id": [Source(_examples())], "ood": [Source(_examples())]})
    said = capsys.readouterr().err
    assert said.startswith("eval: what the rewards give to the first samples\n")
    assert _table(said) == {"accuracy": "6 1.00 0.00", "format": "6 0.00 0.00"}
