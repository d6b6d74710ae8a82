"""The tower's benchmark: its towers run, forward and backward, and have their times."""

from rrft_jax.bench import tower
from tests import tiny


def test_every_tower_has_its_times_and_ratios(monkeypatch):
    monkeypatch.setattr(tower, "SIDES", (4,))
    # The same one three times, which is compiled once.
    monkeypatch.setattr(tower, "TOWERS", dict.fromkeys(tower.TOWERS, tiny.WINDOWS.vision))
    report = tower.bench_tower(1)
    assert set(report) == {"device", "16"}
    assert set(report["16"]) == {"forward", "gradient"}
    for times in report["16"].values():
        assert set(times) == {*tower.TOWERS, "whole_to_windows", "whole_to_mixed"}
