"""The console shows a step's seconds, rewards and counts in one line of at most 100 columns."""

import io

import pytest

from rrft_jax.monitoring import Progress
from rrft_jax.monitoring.summary import Summary

SFT = {"loss": 1.25, "skipped_updates": 0, "seconds_step": 0.5, "seconds_update": 0.4}
GRPO = {
    **SFT,
    "reward": 1.5,
    "reward_std": 0.1,
    "reward_accuracy": 0.52,
    "reward_accuracy_std": 0.2,
    "reward_my_rewards.boxes.iou": 0.98,
    "reward_my_rewards.boxes.iou_std": 0.0,
    "reward_failures": 0,
    "completion_length": 43.0,
    "kl": 0.001,
}


def test_every_reward_stands_under_its_own_name():
    assert list(Summary()(GRPO).items()) == [
        ("s/step", 0.5), ("reward", 1.5), ("accuracy", 0.52), ("iou", 0.98),
        ("failed", 0), ("skipped", 0), ("length", 43), ("kl", 0.001), ("loss", 1.25),
    ]  # fmt: skip
    assert list(Summary()(SFT)) == ["s/step", "loss", "skipped"]
    two = GRPO | {"reward_other.iou": 0.5, "reward_other.iou_std": 0.5}
    assert {"my_rewards.boxes.iou", "other.iou"} <= Summary()(two).keys()


def test_a_single_reward_is_shown_once():
    single = {key: value for key, value in GRPO.items() if "iou" not in key}
    assert [name for name in Summary()(single) if name in ("reward", "accuracy")] == ["accuracy"]


def test_failures_and_skipped_updates_add_up_and_come_first():
    summary = Summary()
    summary(GRPO | {"reward_failures": 2})
    shown = summary(GRPO | {"reward_failures": 1, "skipped_updates": 1})
    assert list(shown.items())[:3] == [("s/step", 0.5), ("failed", 3), ("skipped", 1)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_line_fits_100_columns_and_loses_no_failure(stream):
    many = {f"reward_a_long_name_of_number_{n}{end}": 0.5 for n in range(9) for end in ("", "_std")}
    out, summary = stream(), Summary()
    with Progress("grpo", total=2, stream=out) as progress:
        for step in (1, 2):
            progress.update(step, summary(GRPO | many | {"reward_failures": 4}))
    lines = [line for line in out.getvalue().replace("\r", "\n").splitlines() if "s/step" in line]
    assert lines and all(len(line.rstrip()) <= 100 for line in lines)
    assert "failed 8" in lines[-1] and "reward 1.5" in lines[-1]
