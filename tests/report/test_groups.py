"""Groups in training: rows of one prompt together, within the limits of a page."""

import json

from rrft_jax.report import groups as module
from rrft_jax.report.groups import cut, groups
from rrft_jax.report.pictures import Pictures
from rrft_jax.report.run import Run
from tests.report.files import write_run


def read(folder):
    return groups(Run.read(folder), Pictures())


def test_rows_of_a_prompt_are_a_group_that_is_flat_if_no_answer_has_an_advantage(tmp_path):
    found = read(write_run(tmp_path / "run", steps=(1, 2, 3)))
    assert (found["steps"], found["shown"]) == (3, 3)
    assert [group["flat"] for group in found["groups"]] == [True, False, True]
    assert all(len(group["said"]) == 4 for group in found["groups"])
    (_, second, _) = found["groups"]
    assert [one["advantage"] for one in second["said"]] == [0.75, -0.25, -0.25, -0.25]
    assert [one["finished"] for one in second["said"]] == [True, True, False, True]


def test_past_the_limit_evenly_spaced_steps_are_shown_and_fewer_have_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 12)
    monkeypatch.setattr(module, "MOST_TOKENS", 60)
    found = read(write_run(tmp_path / "run", steps=range(1, 7)))
    assert (found["steps"], found["shown"]) == (6, 3)
    assert [group["step"] for group in found["groups"]] == [1, 3, 5]
    with_tokens = ["pieces" in group["said"][0] for group in found["groups"]]
    assert with_tokens == [True, False, True]


def test_torn_lines_and_values_of_other_kinds_are_left_out_or_harmless(tmp_path):
    folder = write_run(tmp_path / "run", steps=(1,))
    file = folder / "rollouts.jsonl"
    odd = {"stage": "grpo", "step": 2, "completion": 5, "rewards": [], "pictures": 7, "pieces": "x"}
    short = {
        "stage": "grpo",
        "step": 3,
        "completion": "a",
        "pieces": ["a"],
        "rollout_log_probs": [],
    }
    lines = [json.dumps(line) for line in (odd, short)] + ['{"stage": "grpo", "st']
    file.write_text(file.read_text() + "\n".join(lines))
    _, odd, short = read(folder)["groups"]
    assert odd["said"][0]["text"] == "" and odd["pictures"] == []
    assert "rollout_log_probs" not in short["said"][0] and short["said"][0]["pieces"] == ["a"]


def test_a_text_that_is_cut_says_how_much_is_left_out():
    assert cut("abcdef", 4) == "abcd [... 2 more characters]"
    assert cut("abcd", 4) == "abcd" and cut(None) == ""
