"""Rollouts on the host: decode and reward them, and replace groups that teach nothing."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rrft_jax import rewards as reward_functions
from rrft_jax.data import Batch, Processor
from rrft_jax.data.thumbnails import thumbnails
from rrft_jax.models import prompt as prompts
from rrft_jax.models.prompt import Prompt
from rrft_jax.parallel import distributed
from rrft_jax.rewards import Failure
from rrft_jax.rollout import rollouts as rollout_data
from rrft_jax.rollout.rollouts import Rewards, Rollouts, objects
from rrft_jax.tasks import find
from rrft_jax.tasks.opening import reply_of
from rrft_jax.training import objectives

SHOWN = 2  # number of prompts per step whose completions go to rollouts.jsonl


def reward(
    sampled: Rollouts,
    batch: Batch,
    terms: Sequence[reward_functions.Term],
    processor: Processor,
    step: int,
    pictures: bool = False,
) -> Rollouts:
    """Decode and reward completions, and share the results with all processes.

    Every process scores its own completions and then receives all others. So no result that
    follows from the rewards depends on the number of processes. All processes must call this.

    Args:
      sampled: this process's rollouts, on the host.
      batch: their prompts.
      terms: the rewards for rows whose source has no rewards of its own.
      processor: the processor that decodes the tokens.
      step: the number of the training step.
      pictures: True if the records get small pictures, for rollouts that are shown.

    Returns:
      The rollouts of all processes, with texts, rewards and records, and with this process's
      prompts.
    """
    texts = [
        [
            reply_of(find(example.task), processor.prompt_end, processor.decode(tokens[mask]))
            for tokens, mask in zip(*group)
        ]
        for example, *group in zip(batch.examples, sampled.tokens, sampled.mask)
    ]
    lengths = sampled.mask.sum(-1)
    records = [
        {
            "id": example.id,
            "prompt": batch.prompt_texts[b],
            "problem": example.question,
            "answer": example.answer,
            "pictures": thumbnails(example.images) if pictures else [],
            "tokens": int(batch.prompt.mask[b].sum()),
        }
        for b, example in enumerate(batch.examples)
    ]
    rows = sampled.replace(
        texts=np.array(texts, object),
        rewards=rewards_of(terms, texts, batch, step=step, lengths=lengths),
        records=objects(records),
    )
    rows = [rows.select([b]) for b in range(len(batch.examples))]
    rollouts = rollout_data.concatenate(distributed.gather_rows(batch.row_ids, rows))
    return rollouts.replace(prompt=batch.prompt, row_ids=tuple(batch.row_ids))


def has_signal(rollouts: Rollouts) -> np.ndarray:
    """Return True [B] for groups whose rewards differ; the others have no advantage to learn."""
    return ~objectives.is_flat(rollouts.rewards.total)


def metrics(rollouts: Rollouts) -> dict[str, float]:
    """Return the metrics of rewarded rollouts, for `metrics.jsonl`."""
    by_name = rollouts.rewards.by_name
    return {
        "reward": rollouts.rewards.total.mean(),
        "reward_std": rollouts.rewards.total.std(),
        **{f"reward_{name}": np.nanmean(values) for name, values in by_name.items()},
        **{f"reward_{name}_std": np.nanstd(values) for name, values in by_name.items()},
        "flat_groups": 1 - has_signal(rollouts).mean(),
        "completion_length": rollouts.mask.sum(-1).mean(),
        "truncated_share": 1 - rollouts.finished.mean(),
    }


@dataclasses.dataclass(frozen=True)
class Learnt:
    """What a step has learnt from the rollouts of all processes.

    Attributes:
      rollouts: the rollouts.
      advantages: their advantages [B,G].
      reference: the log-probabilities [B,G,T] of their tokens under the reference, if there is one.
    """

    rollouts: Rollouts
    advantages: np.ndarray
    reference: np.ndarray | None = None


def shown(learnt: Learnt, processor: Processor) -> list[dict[str, Any]]:
    """Return the completions of the first prompts, as rows for `rollouts.jsonl`.

    The longest fields, those of tokens, come last. A row's "pictures" are small files, as
    `Thumbnails.keep` takes them.
    """
    rollouts, rows = learnt.rollouts, []
    for b, g in np.ndindex(min(SHOWN, len(rollouts.texts)), rollouts.texts.shape[1]):
        rewards = {name: values[b, g] for name, values in rollouts.rewards.by_name.items()}
        of_tokens = {"rollout_log_probs": rollouts.rollout_log_probs}
        if learnt.reference is not None:
            of_tokens["reference_log_probs"] = learnt.reference
        mask, kept = rollouts.mask[b, g], ("id", "prompt", "problem", "answer", "pictures")
        rows.append(
            {
                **{name: rollouts.records[b][name] for name in kept},
                "completion": rollouts.texts[b, g],
                "finished": bool(rollouts.finished[b, g]),
                "rewards": {n: float(x) for n, x in rewards.items() if not np.isnan(x)},
                "reward": float(rollouts.rewards.total[b, g]),
                "advantage": float(learnt.advantages[b, g]),
                "pieces": processor.pieces(rollouts.tokens[b, g][mask]),
                **{n: [round(float(x), 5) for x in of[b, g][mask]] for n, of in of_tokens.items()},
            }
        )
    return rows


def rewards_of(
    terms: Sequence[reward_functions.Term],
    texts: list[list[str]],
    batch: Batch,
    *,
    step: int,
    lengths: np.ndarray,
) -> Rewards:
    """Return the rewards of every completion. Two processes may both score a row.

    Args:
      terms: the rewards for rows whose source has no rewards of its own.
      texts: the completions [B][G].
      batch: the examples, and the sources that they come from.
      step: the number of the training step.
      lengths: the numbers of tokens of the completions [B,G].
    """
    total = np.zeros((len(texts), len(texts[0])), np.float32)
    by_name: dict[str, np.ndarray] = {}
    failed: list[dict[str, list[Failure]]] = []
    for b, (group, example, source) in enumerate(zip(texts, batch.examples, batch.sources)):
        failed.append({})
        own, given = source.rewards, {"step": step, "lengths": lengths[b].tolist()}
        for term in terms if own is None else reward_functions.read_terms(own):
            values = by_name.setdefault(term.name, np.full_like(total, np.nan))
            scores = reward_functions.scores(term.name, group, example, **given, **term.options)
            values[b], failed[b][term.name] = scores
            total[b] += term.weight * values[b]
    values = np.stack(list(by_name.values()), axis=-1)
    return Rewards(total, values, objects(failed), tuple(by_name))


def refill(
    rollouts: Rollouts, more: Iterator[Rollouts], processor: Processor, limit: int
) -> tuple[Rollouts, int, int]:
    """Replace groups without signal by groups of fresh prompts that have a signal.

    This is DAPO's dynamic sampling (https://arxiv.org/abs/2503.14476), in whole batches, whose
    shapes are compiled already. The rest of the last batch is dropped, so that the next step
    depends on the state and the loader alone.

    Args:
      rollouts: the first batch's rollouts, of all processes.
      more: an iterator over the rollouts of further batches, sampled on demand.
      processor: the processor that pads the rows of two batches alike.
      limit: the largest number of further batches. Groups without signal may be left after it.

    Returns:
      (rollouts, number of replaced groups, number of further batches that were sampled).
    """
    replaced = rounds = 0
    while rounds < limit and not has_signal(rollouts).all():
        rounds += 1
        fresh = next(more)
        flat, new = np.flatnonzero(~has_signal(rollouts)), np.flatnonzero(has_signal(fresh))
        pairs = dict(zip(flat.tolist(), new.tolist()))
        if pairs:
            rollouts = _with_rows(rollouts, fresh, pairs, processor)
        replaced += len(pairs)
    return rollouts, replaced, rounds


def _with_rows(a: Rollouts, b: Rollouts, rows: dict[int, int], processor: Processor) -> Rollouts:
    """Return `a` with some rows replaced by rows of `b`; `rows` maps row of `a` -> row of `b`."""
    size = len(a.texts)
    taken = [size + rows[i] if i in rows else i for i in range(size)]
    mixed = rollout_data.concatenate([a, b]).select(taken)
    return mixed.replace(prompt=_with_prompts(a, b, rows, processor), row_ids=a.row_ids)


def _with_prompts(a: Rollouts, b: Rollouts, rows: dict[int, int], processor: Processor) -> Prompt:
    """Return this process's prompts of `a`, some replaced by prompts of `b` from any process."""
    row_ids = a.row_ids
    wanted = {new for old, new in rows.items() if old not in row_ids}  # wanted by other processes
    mine = {new: _row(b.prompt, row_ids.index(new)) for new in rows.values() if new in row_ids}
    others = distributed.gather({new: row for new, row in mine.items() if new in wanted})
    fresh = {new: row for part in others for new, row in part.items()} | mine
    own = [
        fresh[rows[row_id]] if row_id in rows else _row(a.prompt, number)
        for number, row_id in enumerate(row_ids)
    ]
    both = [a.prompt, b.prompt]
    return processor.batch(
        own,
        max(prompt.tokens.shape[1] for prompt in both),
        max(prompt.patches.shape[1] for prompt in both),
    )


def _row(prompt: Prompt, index: int) -> Prompt:
    """Return one row of a batch, padding included, in the form that `Processor.batch` takes."""
    return jax.tree.map(
        lambda axes, x: np.take(x, index, axis=axes.index("B")), prompts.AXES, prompt
    )
