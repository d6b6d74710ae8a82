"""Seconds add up by name, and an interrupted part does not count."""

import pytest

from rrft_jax.monitoring import stopwatch


def test_seconds_add_up_by_name(monkeypatch):
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0, 24.0, 30.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(times))
    clock = stopwatch.Stopwatch()
    for name in ("sample", "update", "sample"):
        with clock(name):
            pass
    with pytest.raises(KeyError), clock("sample"):
        raise KeyError
    assert clock.seconds == {"seconds_sample": 5.0, "seconds_update": 2.0} and clock.total == 7.0
