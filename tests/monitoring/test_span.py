"""`--config.profile` names steps of a stage, and a broken value is refused by name."""

import pytest

from rrft_jax.errors import UserError
from rrft_jax.monitoring.span import Span, check_span, read_span

STAGES = ("sft", "grpo")


def test_a_span_is_of_the_named_stage_or_of_the_last_one():
    assert read_span("10:12", STAGES) == Span("grpo", 10, 12)
    assert read_span("sft@3:3", STAGES) == Span("sft", 3, 3)
    assert read_span("", STAGES) is None


@pytest.mark.parametrize("text", ["10", "0:2", "3:2", "a:b", "sft@", "-1:2", "1:2 ", "dpo@1:2"])
def test_a_broken_value_is_refused_by_name(text):
    with pytest.raises(UserError, match=f"--config.profile={text}: expected "):
        read_span(text, STAGES)


def test_a_config_without_stages_has_no_step_to_profile():
    with pytest.raises(UserError, match="a stage of this config, which has none"):
        read_span("1:2", ())


def test_a_step_after_the_end_of_the_stage_is_refused():
    steps = {"sft": 4, "grpo": 2}
    check_span(Span("sft", 1, 4), steps)
    check_span(None, steps)
    with pytest.raises(UserError, match="grpo has 2 steps"):
        check_span(Span("grpo", 2, 3), steps)
