"""Before SFT the run's own rewards score the targets, and one that refuses all of them ends it."""

import types

import pytest

from configs import grpo, sft
from rrft_jax import settings
from rrft_jax.data import Example, Prompts, Source
from rrft_jax.data.drawn import DrawnSource
from rrft_jax.data.targets import FIRST, check_targets
from rrft_jax.errors import UserError

CALLS = "change_size(1, 'small')"


def _examples(number=3, task="visual_counting", **fields):
    values = {"images": (), "problem": "How many?", "answer": "2", "cot": "One, two."} | fields
    return [Example(id=f"e{n}", task=task, **values) for n in range(number)]


def _config(arg="", rewards=None, **fields):
    config = (sft if "sft" in arg else grpo).get_config(arg)
    if rewards is not None:
        config.grpo.rewards = type(config.grpo.rewards)(rewards, allow_dotted_keys=True)
    for key, value in fields.items():
        config.data[key] = value
    return settings.make(config.to_dict())


OWN = """
def raising(completions, example, *, step, lengths):
    raise RuntimeError("broken")

def short(completions, example, *, step, lengths):
    return [float(step > 0 and lengths[0] < 20) for _ in completions]
"""


@pytest.mark.parametrize(
    "task, said",
    [
        ("visual_counting", "accuracy 1.00, format 1.00"),
        ("structure_perception", "format 1.00, math_accuracy 1.00"),
        ("spatial_transformation", "format 1.00, transformation 1.00"),
    ],
)
def test_the_demo_says_what_its_targets_get(capsys, task, said):
    source = Source(DrawnSource(task, "train", 0, 0, 100, 56))
    check_targets(_config(f"task={task}"), [source])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"sft: the targets of the first {FIRST} samples get {said}"


@pytest.mark.parametrize("arg", ["paradigm=cot_sft", "paradigm=cot_sft,model=2b"])
def test_a_config_without_grpo_has_the_rewards_of_its_task(capsys, arg):
    check_targets(_config(arg), [Source(_examples(cot=None)), Source(_examples())])
    assert "first 6 samples get accuracy 1.00, format 1.00" in capsys.readouterr().err


def test_answers_alone_are_not_checked(capsys):
    check_targets(_config("paradigm=ans_sft"), [Source(_examples())])
    assert not capsys.readouterr().err


def test_empty_thoughts_are_no_fault_where_the_format_allows_them(capsys):
    check_targets(_config(thought_dropout=1.0), [Source(_examples(cot=None))])
    assert "accuracy 1.00, format 1.00" in capsys.readouterr().err
    check_targets(_config("model=2b", thought_dropout=1.0), [Source(_examples())])
    some = _examples(5, cot=None) + _examples(3)
    check_targets(_config("model=2b"), [Source(some)])
    assert "first 8 samples get accuracy 1.00, format 0.38" in capsys.readouterr().err


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
    assert "accuracy 1.00, choice 0.00" in capsys.readouterr().err
    check_targets(_config(rewards={"format": 1, "choice": -1}), [Source(_examples())])
    check_targets(_config(rewards={"format": 1, "choice": 0}), [Source(_examples())])


def test_captions_are_scored_in_their_variant(capsys):
    fields = {"answer": CALLS, "preface": "<summary>a</summary><caption>b</caption>"}
    source = Source(_examples(task="spatial_transformation", **fields), Prompts(variant="caption"))
    arg = "task=spatial_transformation"
    check_targets(_config(arg, {"caption_format": 1}), [source])
    check_targets(_config(f"{arg},paradigm=cot_sft"), [source])
    said = capsys.readouterr().err
    assert "get caption_format 1.00" in said
    assert "get transformation_full 1.00, caption_format 1.00" in said
    with pytest.raises(UserError, match="it begins with a summary and a caption; reward caption_"):
        check_targets(_config(arg, {"format": 1}), [source])


def test_each_source_has_its_own_rewards(capsys):
    own = Source(_examples(2, answer=CALLS), None, {"transformation": 1})
    check_targets(_config(rewards={"accuracy": 1}), [Source(_examples()), own])
    assert "first 5 samples get accuracy 1.00, transformation 1.00" in capsys.readouterr().err


def test_one_source_among_others_that_is_refused_is_said(capsys):
    bare = Source(_examples(2, cot=None), None, {"format": 1})
    check_targets(_config(), [Source(_examples()), bare])
    warning, line = capsys.readouterr().err.splitlines()
    assert warning.startswith("sft: warning: the targets of SFT get 0 for the layout by the run's")
    assert "its thought is empty" in warning and line.endswith("accuracy 1.00, format 0.60")
    with pytest.raises(UserError, match="its thought is empty"):
        check_targets(_config(), [bare, bare])


def test_own_rewards_are_scored_and_may_fail(capsys, tmp_path, monkeypatch):
    (tmp_path / "own_of_targets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    rewards = {"format": 1, "own_of_targets.short": 1, "own_of_targets.raising": 1}
    # Of no class of ours, which the rewards' process would take seconds to import.
    examples = [types.SimpleNamespace(**vars(example)) for example in _examples()]
    check_targets(_config(rewards=rewards), [Source(examples)])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("samples get format 1.00, own_of_targets.short 1.00")
