"""Rewards that fail: said once for each, and the end of a run where one always does."""

import numpy as np

from rrft_jax.errors import UserError
from rrft_jax.monitoring import say
from rrft_jax.rewards import Failure, guard
from rrft_jax.training.groups import Groups

_SHOWN = 120  # characters of a completion that a reward failed on


class FailingRewards:
    """Says how a reward fails when it first does, and ends a run in which one always does."""

    def __init__(self):
        self._asked: set[str] = set()
        self._said: set[str] = set()

    def check(self, groups: Groups) -> None:
        """Must be called with the groups of every batch, which all processes know alike.

        Raises:
          UserError: a reward failed on all completions of the first batch that it was asked about.
        """
        always = []
        for name, failures in groups.failures.items():
            if failures and name not in self._said:
                self._said.add(name)
                say(_report(name, failures[0]))
            asked = np.count_nonzero(~np.isnan(groups.by_name[name]))
            if failures and name not in self._asked and len(failures) >= asked:
                always.append(name)
            self._asked.add(name)
        if always:
            name, failures = always[0], groups.failures[always[0]]
            where = f"reward {name!r}: on all {len(failures)} completions of its first batch"
            if all(failure.timed_out for failure in failures):
                raise UserError(
                    f"{where} it took longer than its time limit, "
                    f"{guard.seconds():g} s a completion; "
                    "make it faster, or raise --config.grpo.reward_seconds"
                )
            raise UserError(
                f"{where} it failed: {failures[0].reason}; mend it, or take it out of the rewards"
            )


def _report(name: str, failure: Failure) -> str:
    lines = [
        f"reward {name!r} failed on a completion, which gets 0: {failure.reason}",
        f"  the completion: {failure.text[:_SHOWN]!r}{'...' * (len(failure.text) > _SHOWN)}",
        *failure.traceback.splitlines(),
        "  further failures are only counted, as reward_failures in metrics.jsonl",
    ]
    return "\n".join(lines)
