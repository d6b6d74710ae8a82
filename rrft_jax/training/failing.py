"""Failing rewards: each is reported once, and a reward that always fails ends the run."""

import itertools

import numpy as np

from rrft_jax.errors import UserError
from rrft_jax.monitoring import say
from rrft_jax.rewards import Failure
from rrft_jax.rollout import Rollouts

_SHOWN = 120  # characters of a completion that a reward failed on


class FailingRewards:
    """A check that reports a reward's first failure, and ends the run if a reward always fails."""

    def __init__(self, seconds: float):
        """Begin without failures; `seconds` is the time limit of a completion's rewards."""
        self._seconds = seconds
        self._asked: set[str] = set()
        self._said: set[str] = set()
        self._count = 0

    def check(self, rollouts: Rollouts) -> None:
        """Check the rollouts of a batch. All processes must call this with the same rollouts.

        Raises:
          UserError: a reward failed on all completions of the first batch that it scored.
        """
        always, failed = [], {}
        for name in rollouts.rewards.by_name:
            rows = (row.get(name, ()) for row in rollouts.rewards.failures)
            failed[name] = failures = list(itertools.chain.from_iterable(rows))
            self._count += len(failures)
            if failures and name not in self._said:
                self._said.add(name)
                say(_report(name, failures[0]))
            asked = np.count_nonzero(~np.isnan(rollouts.rewards.by_name[name]))
            if failures and name not in self._asked and len(failures) >= asked:
                always.append(name)
            self._asked.add(name)
        if always:
            name, failures = always[0], failed[always[0]]
            where = f"reward {name!r}: on all {len(failures)} completions of its first batch"
            if all(failure.timed_out for failure in failures):
                raise UserError(
                    f"{where} it took longer than its time limit, "
                    f"{self._seconds:g} s a completion; "
                    "make it faster, or raise --config.grpo.reward_seconds"
                )
            raise UserError(
                f"{where} it failed: {failures[0].reason}; mend it, or take it out of the rewards"
            )

    def take_count(self) -> int:
        """Return the number of failures since the last call, summed over all rewards."""
        count, self._count = self._count, 0
        return count


def _report(name: str, failure: Failure) -> str:
    lines = [
        f"reward {name!r} failed on a completion, which gets 0: {failure.reason}",
        f"  the completion: {failure.text[:_SHOWN]!r}{'...' * (len(failure.text) > _SHOWN)}",
        *failure.traceback.splitlines(),
        "  further failures are only counted, as reward_failures in metrics.jsonl",
    ]
    return "\n".join(lines)
