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
from rrft_jax.rollout import Completions

ROLLOUTS_KEPT = 2  # prompts of a step whose completions go to rollouts.jsonl
LETTERS = {"completions": "BGT", "mask": "BGT", "finished": "BG", "sampler_log_probs": "BGT"}


@dataclasses.dataclass(frozen=True)
class Groups:
    """G completions of each of a batch's B prompts.

    Attributes:
      batch: the prompts, and what they were made of.
      arrays: of `LETTERS`' axes, what `GRPOBatch` calls by the same names.
      texts: [B][G]; these and what follows are empty before `rewarded`.
      by_name: the rewards [B,G] by name, NaN in rows whose source doesn't have that one.
      rewards: [B,G], their weighted sums.
    """

    batch: Batch
    arrays: dict[str, np.ndarray]
    texts: list[list[str]] = dataclasses.field(default_factory=list)
    by_name: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rewards: np.ndarray | None = None

    @classmethod
    def of(cls, batch: Batch, completions: Completions) -> "Groups":
        """What was sampled; waits for it."""
        arrays = {
            "completions": completions.tokens,
            "mask": completions.mask,
            "finished": completions.finished,
            "sampler_log_probs": completions.sampled_log_probs,
        }
        return cls(batch, jax.device_get(arrays))

    @property
    def mask(self) -> np.ndarray:
        """[B,G,T] bool, the sampled tokens."""
        return self.arrays["mask"]

    @property
    def spread(self) -> np.ndarray:
        """[B] bool: whether rewards differ. A group where they don't has no advantage to learn."""
        return np.ptp(self.rewards, axis=-1) > 0

    def rewarded(
        self, terms: Sequence[reward_functions.Term], processor: Processor, step: int
    ) -> "Groups":
        """The same with texts and rewards; see `rewards_of`."""
        texts = [
            [processor.decode(tokens[mask]) for tokens, mask in zip(*group)]
            for group in zip(self.arrays["completions"], self.mask)
        ]
        lengths = self.mask.sum(-1)
        by_name, rewards = rewards_of(terms, texts, self.batch, step=step, lengths=lengths)
        return dataclasses.replace(self, texts=texts, by_name=by_name, rewards=rewards)

    def metrics(self) -> dict[str, float]:
        """Means for `metrics.jsonl`."""
        return {
            "reward": self.rewards.mean(),
            "reward_std": self.rewards.std(),
            **{f"reward_{name}": np.nanmean(values) for name, values in self.by_name.items()},
            **{f"reward_{name}_std": np.nanstd(values) for name, values in self.by_name.items()},
            "flat_groups": 1 - self.spread.mean(),
            "completion_length": self.mask.sum(-1).mean(),
            "truncated_share": 1 - self.arrays["finished"].mean(),
            **self.batch.padding,
        }

    def write(self, writer: MetricsWriter, number: int, advantages: np.ndarray) -> None:
        """Some of the completions, for `rollouts.jsonl`."""
        for b, g in np.ndindex(min(ROLLOUTS_KEPT, len(self.texts)), len(self.texts[0])):
            rewards = {name: values[b, g] for name, values in self.by_name.items()}
            values: dict[str, Any] = {
                "id": self.batch.examples[b].id,
                "prompt": self.batch.prompt_texts[b],
                "answer": self.batch.examples[b].answer,
                "completion": self.texts[b][g],
                "rewards": {name: value for name, value in rewards.items() if not np.isnan(value)},
                "advantage": advantages[b, g],
            }
            writer.write("grpo", number, values)


def rewards_of(
    terms: Sequence[reward_functions.Term],
    texts: list[list[str]],
    batch: Batch,
    *,
    step: int,
    lengths: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The rewards of every completion.

    Args:
      terms: for the rows whose source has no rewards of its own.
      texts: [B][G].
      batch: the examples, and the sources that they come from.
      step: of the training.
      lengths: tokens of the completions [B,G].

    Returns:
      by name [B,G], NaN in rows whose source doesn't have that reward; the weighted sums [B,G].
    """
    total = np.zeros((len(texts), len(texts[0])), np.float32)
    by_name: dict[str, np.ndarray] = {}
    for b, (group, example, source) in enumerate(zip(texts, batch.examples, batch.sources)):
        own, given = source.rewards, {"step": step, "lengths": lengths[b].tolist()}
        for term in terms if own is None else reward_functions.read_terms(own):
            values = by_name.setdefault(term.name, np.full_like(total, np.nan))
            values[b] = reward_functions.score(term.name, group, example, **given, **term.options)
            total[b] += term.weight * values[b]
    return by_name, total


def refill(
    groups: Groups, more: Callable[[int], Groups], processor: Processor, limit: int
) -> tuple[Groups, int, int]:
    """Replaces groups without spread by such of fresh prompts that have some.

    DAPO's dynamic sampling (https://arxiv.org/abs/2503.14476), in whole batches, whose shapes are
    compiled already. What is left over of the last of them is dropped, so that the next step
    depends on nothing but the state and the loader.

    Args:
      groups: rewarded.
      more: the rewarded groups of the next batch of prompts, given how many batches this step has
        sampled before.
      processor: pads the rows of two batches alike.
      limit: how many more batches are sampled at most; groups without spread may be left then.

    Returns:
      (groups, how many of them are replaced, how many more batches were sampled).
    """
    replaced = rounds = 0
    while rounds < limit and not groups.spread.all():
        rounds += 1
        fresh = more(rounds)
        pairs = list(zip(np.flatnonzero(~groups.spread), np.flatnonzero(fresh.spread)))
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

    both = [a.batch.prompt, b.batch.prompt]
    batch = dataclasses.replace(
        a.batch,
        prompt=processor.batch(
            joined(*([_row(prompt, i) for i in range(size)] for prompt in both)),
            max(prompt.tokens.shape[1] for prompt in both),
            max(prompt.patches.shape[1] for prompt in both),
        ),
        examples=joined(a.batch.examples, b.batch.examples),
        sources=joined(a.batch.sources, b.batch.sources),
        prompt_texts=joined(a.batch.prompt_texts, b.batch.prompt_texts),
    )
    return Groups(
        batch=batch,
        arrays={name: stacked(a.arrays[name], b.arrays[name]) for name in LETTERS},
        texts=joined(a.texts, b.texts),
        by_name={
            name: stacked(unknown(a, name), unknown(b, name))
            for name in dict.fromkeys([*a.by_name, *b.by_name])
        },
        rewards=stacked(a.rewards, b.rewards),
    )


def _row(prompt: Prompt, index: int) -> Prompt:
    """One row of a batch, padding included, as `Processor.batch` takes them."""
    return jax.tree.map(
        lambda letters, x: np.take(x, index, axis=letters.index("B")), prompts.LETTERS, prompt
    )
