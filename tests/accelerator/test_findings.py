"""A bound is kept or not; what can't be known keeps none."""

import json
import math

import pytest

from rrft_jax.accelerator import findings, summary


@pytest.mark.parametrize(
    ("finding", "holds"),
    [
        (findings.at_most("x", 0.1, 0.1), True),
        (findings.at_most("x", 0.2, 0.1), False),
        (findings.at_most("x", math.nan, 0.1), False),
        (findings.at_least("x", 4.0, 4.0), True),
        (findings.at_least("x", math.nan, 4.0), False),
        (findings.near("x", 98.0, 100.0, 0.03), True),
        (findings.near("x", 90.0, 100.0, 0.03), False),
        (findings.same("x", "9.0", "9.0"), True),
        (findings.same("x", "8.0", "9.0"), False),
        (findings.told("x", 1), None),
        (findings.at_most("x", None, 0.1), None),
        (findings.at_least("x", None, 0.1), None),
        (findings.near("x", None, 0.1, 0.1), None),
    ],
)
def test_a_bound_is_kept_or_not(finding, holds):
    assert finding.holds is holds
    json.loads(json.dumps(vars(finding), allow_nan=False))


def test_the_summary_has_what_was_measured_and_no_more():
    own = {
        "sampling": {"completions, seconds": 1.0, "share of the memory's bandwidth": 0.7},
        "update": {"reference, seconds": 0.5, "update, seconds": 2.5},
    }
    theirs = {
        "completions, seconds": 9.0,
        "reference, seconds": 2.0,
        "update, seconds": 9.0,
    }
    found = {finding.what: finding for finding in summary.findings({**own, "torch": theirs})}
    assert found["a step, transformers to this package"].value == 5.0
    assert found["a step, transformers to this package"].holds
    assert found["update, transformers to this package"].value == 3.6
    assert [finding.what for finding in summary.findings(own)] == [
        "share of the memory's bandwidth",
        "a step, seconds",
    ]
    assert not summary.findings({})
