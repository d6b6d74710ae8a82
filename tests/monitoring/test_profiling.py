"""A profile holds the wanted steps and their parts, and is written however the steps end."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from rrft_jax.monitoring.profiling import Profile
from rrft_jax.monitoring.span import Span
from rrft_jax.monitoring.stopwatch import Stopwatch


def steps(done: int, last: int):
    clock = Stopwatch()
    for number in range(done + 1, last + 1):
        with clock(f"part_{number}"):
            jax.block_until_ready(jnp.ones(number) + 1)
        yield number


def test_a_profile_has_the_named_steps_and_their_parts(tmp_path):
    with Profile(tmp_path, Span("grpo", 2, 3), "grpo", 0) as profile:
        assert list(profile.steps(steps(0, 4))) == [1, 2, 3, 4]
    [names] = traces(tmp_path)
    assert names >= {"part_2", "part_3"} and not names & {"part_1", "part_4"}
    assert "grpo" in names  # the annotation of whole steps


def test_a_profile_is_written_if_the_steps_are_interrupted_and_goes_on_later(tmp_path):
    span = Span("grpo", 2, 4)
    with pytest.raises(KeyboardInterrupt):
        with Profile(tmp_path, span, "grpo", 0) as profile:
            for number in profile.steps(steps(0, 5)):
                if number == 2:
                    raise KeyboardInterrupt
    [names] = traces(tmp_path)
    assert "part_2" in names and "part_3" not in names
    for done in (4, 5):  # resumed after the span
        with Profile(tmp_path, span, "grpo", done) as profile:
            assert list(profile.steps(steps(done, 5))) == list(range(done + 1, 6))
    assert len(traces(tmp_path)) == 1


@pytest.mark.parametrize("span", [None, Span("sft", 1, 2)])
def test_without_a_span_or_in_another_stage_nothing_is_traced(span, tmp_path):
    with Profile(tmp_path, span, "grpo", 0) as profile:
        assert list(profile.steps(steps(0, 2))) == [1, 2]
    assert traces(tmp_path) == []


def traces(workdir: Path) -> list[set[str]]:
    """The names of the events of each trace."""
    return [
        {
            event.name
            for plane in ProfileData.from_file(str(file)).planes
            for line in plane.lines
            for event in line.events
        }
        for file in sorted(workdir.glob("profile/plugins/profile/*/*.xplane.pb"))
    ]
