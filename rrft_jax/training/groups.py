"""Groups of completions on the host: read, rewarded, and replaced where they teach nothing."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rrft_jax import rewards as reward_functions
from rrft_jax.data import Batch, Processor
from rrft_jax.models import Prompt
from rrft_jax.models import prompt as prompts
from rrft_jax.monitoring import MetricsWriter
from rrft_jax.parallel import distributed, sharding
from rrft_jax.rewards import Failure
from rrft_jax.rollout import Completions
from rrft_jax.training import objectives

ROLLOUTS_KEPT = 2  # prompts of a step whose completions go to rollouts.jsonl
AXES = {"completions": "BGT", "mask": "BGT", "finished": "BG", "rollout_log_probs": "BGT"}


@dataclasses.dataclass(frozen=True)
class Groups:
    """G completions of each of a batch's B prompts.

    Every process scores its own, and then all of them know all: what follows from the rewards
    doesn't depend on the number of processes. Only the prompts, whose pictures are large, stay
    where they are.

    Attributes:
      batch: the prompts of this process, and what they were made of.
      arrays: of `AXES`' axes, what `GRPOBatch` calls by the same names.
      texts: [B][G].
      by_name: the rewards [B,G] by name, NaN in rows whose source doesn't have that one.
      rewards: [B,G], their weighted sums.
      prompts: of each group "id", "prompt" (its text), "answer", and "tokens", their number.
      failures: how each reward has failed on completions of these groups, by name.
    """

    batch: Batch
    arrays: dict[str, np.ndarray]
    texts: list[list[str]]
    by_name: dict[str, np.ndarray]
    rewards: np.ndarray
    prompts: list[dict[str, Any]]
    failures: dict[str, list[Failure]] = dataclasses.field(default_factory=dict)

    @classmethod
    def rewarded(
        cls,
        batch: Batch,
        arrays: dict[str, np.ndarray],
        terms: Sequence[reward_functions.Term],
        processor: Processor,
        step: int,
    ) -> "Groups":
        """Reads and rewards this process's completions, `arrays` of `completions_of`.

        Must be called by all processes.
        """
        texts = [
            [processor.decode(tokens[mask]) for tokens, mask in zip(*group)]
            for group in zip(arrays["completions"], arrays["mask"])
        ]
        lengths = arrays["mask"].sum(-1)
        by_name, rewards, failed = rewards_of(terms, texts, batch, step=step, lengths=lengths)
        rows = [
            {
                "arrays": {name: array[b] for name, array in arrays.items()},
                "texts": texts[b],
                "by_name": {name: values[b] for name, values in by_name.items()},
                "rewards": rewards[b],
                "failures": failed[b],
                "prompt": {
                    "id": example.id,
                    "prompt": batch.prompt_texts[b],
                    "answer": example.answer,
                    "tokens": int(batch.prompt.mask[b].sum()),
                },
            }
            for b, example in enumerate(batch.examples)
        ]
        rows = distributed.gather_rows(batch.row_ids, rows)
        unknown = np.full_like(rows[0]["rewards"], np.nan)
        names = dict.fromkeys(name for row in rows for name in row["by_name"])
        return cls(
            batch=batch,
            arrays={name: np.stack([row["arrays"][name] for row in rows]) for name in arrays},
            texts=[row["texts"] for row in rows],
            by_name={
                name: np.stack([row["by_name"].get(name, unknown) for row in rows])
                for name in names
            },
            rewards=np.stack([row["rewards"] for row in rows]),
            prompts=[row["prompt"] for row in rows],
            failures={
                name: [failure for row in rows for failure in row["failures"].get(name, ())]
                for name in names
            },
        )

    @property
    def failed(self) -> int:
        """How many completions a reward has failed on, each reward counted."""
        return sum(map(len, self.failures.values()))

    @property
    def own_arrays(self) -> dict[str, np.ndarray]:
        """`arrays` of this process's groups."""
        return {name: array[self.batch.row_ids] for name, array in self.arrays.items()}

    @property
    def tokens(self) -> int:
        """Of all prompts and completions."""
        return sum(prompt["tokens"] for prompt in self.prompts) + int(self.arrays["mask"].sum())

    @property
    def has_signal(self) -> np.ndarray:
        """[B] bool: whether rewards differ. A group where they don't has no advantage to learn."""
        return ~objectives.is_flat(self.rewards)

    def metrics(self) -> dict[str, float]:
        """Means for `metrics.jsonl`."""
        return {
            "reward": self.rewards.mean(),
            "reward_std": self.rewards.std(),
            **{f"reward_{name}": np.nanmean(values) for name, values in self.by_name.items()},
            **{f"reward_{name}_std": np.nanstd(values) for name, values in self.by_name.items()},
            "flat_groups": 1 - self.has_signal.mean(),
            "completion_length": self.arrays["mask"].sum(-1).mean(),
            "truncated_share": 1 - self.arrays["finished"].mean(),
            **self.batch.padding,
        }

    def write(self, writer: MetricsWriter, number: int, advantages: np.ndarray) -> None:
        """Some of the completions, for `rollouts.jsonl`; `advantages` are [B,G]."""
        for b, g in np.ndindex(min(ROLLOUTS_KEPT, len(self.texts)), len(self.texts[0])):
            rewards = {name: values[b, g] for name, values in self.by_name.items()}
            values: dict[str, Any] = {
                **{name: self.prompts[b][name] for name in ("id", "prompt", "answer")},
                "completion": self.texts[b][g],
                "rewards": {name: value for name, value in rewards.items() if not np.isnan(value)},
                "advantage": advantages[b, g],
            }
            writer.write("grpo", number, values)


def completions_of(completions: Completions) -> dict[str, np.ndarray]:
    """What this process has of the completions that were sampled, by `AXES`; waits for them."""
    return sharding.fetch(
        {
            "completions": completions.tokens,
            "mask": completions.mask,
            "finished": completions.finished,
            "rollout_log_probs": completions.rollout_log_probs,
        }
    )


def rewards_of(
    terms: Sequence[reward_functions.Term],
    texts: list[list[str]],
    batch: Batch,
    *,
    step: int,
    lengths: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray, list[dict[str, list[Failure]]]]:
    """The rewards of every completion.

    Args:
      terms: for the rows whose source has no rewards of its own.
      texts: [B][G].
      batch: the examples, and the sources that they come from.
      step: of the training.
      lengths: tokens of the completions [B,G].

    Returns:
      by name [B,G], NaN in rows whose source doesn't have that reward; the weighted sums [B,G];
      how each reward has failed in each row [B], which two processes may both score.
    """
    total = np.zeros((len(texts), len(texts[0])), np.float32)
    by_name: dict[str, np.ndarray] = {}
    failed = []
    for b, (group, example, source) in enumerate(zip(texts, batch.examples, batch.sources)):
        failed.append({})
        own, given = source.rewards, {"step": step, "lengths": lengths[b].tolist()}
        for term in terms if own is None else reward_functions.read_terms(own):
            values = by_name.setdefault(term.name, np.full_like(total, np.nan))
            scores = reward_functions.scores(term.name, group, example, **given, **term.options)
            values[b], failed[b][term.name] = scores
            total[b] += term.weight * values[b]
    return by_name, total, failed


def refill(
    groups: Groups, more: Callable[[int], Groups], processor: Processor, limit: int
) -> tuple[Groups, int, int]:
    """Replaces groups without spread by such of fresh prompts that have some.

    DAPO's dynamic sampling (https://arxiv.org/abs/2503.14476), in whole batches, whose shapes are
    compiled already. What is left over of the last of them is dropped, so that the next step
    depends on nothing but the state and the loader.

    Args:
      groups: those of the first batch.
      more: the groups of the next batch of prompts, given how many batches this step has
        sampled before.
      processor: pads the rows of two batches alike.
      limit: how many more batches are sampled at most; groups without spread may be left then.

    Returns:
      (groups, how many of them are replaced, how many more batches were sampled).
    """
    replaced = rounds = 0
    while rounds < limit and not groups.has_signal.all():
        rounds += 1
        fresh = more(rounds)
        pairs = list(zip(np.flatnonzero(~groups.has_signal), np.flatnonzero(fresh.has_signal)))
        if pairs:
            groups = _with_rows(groups, fresh, dict(pairs), processor)
        replaced += len(pairs)
    return groups, replaced, rounds


def _with_rows(a: Groups, b: Groups, rows: dict[int, int], processor: Processor) -> Groups:
    """`a` with some of its rows, the keys, replaced by rows of `b`, the values."""
    size = len(a.texts)
    take = [rows.get(i, i - size) for i in range(size)]  # of b followed by a: -size is a's first

    def joined(x: list, y: list) -> list:
        return [(y + x)[i] for i in take]

    def stacked(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.concatenate([y, x])[take]

    def unknown(groups: Groups, name: str) -> np.ndarray:
        return groups.by_name.get(name, np.full_like(groups.rewards, np.nan))

    names = dict.fromkeys([*a.by_name, *b.by_name])
    return Groups(
        batch=dataclasses.replace(a.batch, prompt=_with_prompts(a.batch, b.batch, rows, processor)),
        arrays={name: stacked(a.arrays[name], b.arrays[name]) for name in AXES},
        texts=joined(a.texts, b.texts),
        by_name={name: stacked(unknown(a, name), unknown(b, name)) for name in names},
        rewards=stacked(a.rewards, b.rewards),
        prompts=joined(a.prompts, b.prompts),
        failures=a.failures,
    )


def _with_prompts(a: Batch, b: Batch, rows: dict[int, int], processor: Processor) -> Prompt:
    """This process's prompts of `a`, some replaced by such of `b`, which may be another's."""
    row_ids = a.row_ids
    wanted = {new for old, new in rows.items() if old not in row_ids}  # by the others
    mine = {new: _row(b.prompt, row_ids.index(new)) for new in rows.values() if new in row_ids}
    others = distributed.gather({new: row for new, row in mine.items() if new in wanted})
    fresh = {new: row for part in others for new, row in part.items()} | mine
    own = [
        fresh[rows[place]] if place in rows else _row(a.prompt, number)
        for number, place in enumerate(row_ids)
    ]
    both = [a.prompt, b.prompt]
    return processor.batch(
        own,
        max(prompt.tokens.shape[1] for prompt in both),
        max(prompt.patches.shape[1] for prompt in both),
    )


def _row(prompt: Prompt, index: int) -> Prompt:
    """One row of a batch, padding included, as `Processor.batch` takes them."""
    return jax.tree.map(
        lambda letters, x: np.take(x, index, axis=letters.index("B")), prompts.AXES, prompt
    )
