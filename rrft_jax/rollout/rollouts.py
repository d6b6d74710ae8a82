"""`Rollouts`: G completions of each of B prompts, on their way from the sampler to the loss."""

from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int, Shaped

from rrft_jax.models import prompt as prompts
from rrft_jax.models.arrays import Array
from rrft_jax.models.prompt import Prompt
from rrft_jax.parallel import sharding

CUTS = (1, 2, 4, 8)  # the parts of T at which `cut` may end


@flax.struct.dataclass
class Rewards:
    """The rewards of rollouts, on the host.

    Attributes:
      total: the weighted sums [B,G].
      values: the N rewards [B,G,N]; NaN in rows whose source doesn't have that reward.
      failures: [B] dicts, name of a reward -> its failures on completions of the row.
      names: the names of the N rewards.
    """

    total: Float32[np.ndarray, "B G"]
    values: Float32[np.ndarray, "B G N"]
    failures: Shaped[np.ndarray, " B"]
    names: tuple[str, ...] = flax.struct.field(pytree_node=False)

    @property
    def by_name(self) -> dict[str, np.ndarray]:
        """The values [B,G] of each reward, by its name."""
        return {name: self.values[..., n] for n, name in enumerate(self.names)}

    def with_names(self, names: Sequence[str]) -> "Rewards":
        """Return the same rewards in the order of `names`; a missing reward is NaN."""
        known, unknown = self.by_name, np.full_like(self.total, np.nan)
        values = np.stack([known.get(name, unknown) for name in names], axis=-1)
        return self.replace(values=values, names=tuple(names))


@flax.struct.dataclass
class Rollouts:
    """G completions of each of B prompts.

    The sampler leaves them on the devices. `fetch` copies this process's rows to the host, where
    they are decoded and rewarded. Then every process receives the rewards of all processes, but
    not their prompts, because pictures are large. `local` returns the rows that go back to this
    process's devices.

    Attributes:
      prompt: the B prompts; in rollouts of all processes, only this process's prompts.
      tokens: the completions [B,G,T] int32; after its end a completion holds the padding token.
      mask: [B,G,T] bool, True on sampled tokens, the stop token included.
      finished: [B,G] bool, False for a completion that was cut off at its last possible token.
      rollout_log_probs: log-probabilities [B,G,T] float32 under the distribution that the tokens
        were drawn from: with temperature, top-k and top-p, without banned tokens; 0 for greedy
        choices.
      log_probs: log-probabilities [B,G,T] float32 under the policy itself (temperature 1, whole
        vocabulary). Only evaluation reads them.
      texts: the completions as text, [B,G] objects.
      rewards: the rewards of the completions.
      records: [B] dicts about the prompts: "id", "prompt" (its text), "answer", "tokens" (number).
      row_ids: the places of this process's rows among the rows of all processes.
    """

    prompt: Prompt | None
    tokens: Int[Array, "B G T"]
    mask: Bool[Array, "B G T"]
    finished: Bool[Array, "B G"]
    rollout_log_probs: Float32[Array, "B G T"]
    log_probs: Float32[Array, "B G T"] | None = None
    texts: Shaped[np.ndarray, "B G"] | None = None
    rewards: Rewards | None = None
    records: Shaped[np.ndarray, " B"] | None = None
    row_ids: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)

    def fetch(self) -> "Rollouts":
        """Return this process's rows on the host, without prompts. This waits for the sampler."""
        return sharding.fetch(self.replace(prompt=None))

    def select(self, rows: Sequence[int]) -> "Rollouts":
        """Return some rows of rollouts on the host, in the given order, without the prompts."""
        return jax.tree.map(lambda x: x[np.asarray(rows, int)], self.replace(prompt=None))

    def local(self) -> "Rollouts":
        """Return the rows of this process, with their prompts."""
        return self.select(self.row_ids).replace(prompt=self.prompt, row_ids=None)

    @property
    def longest(self) -> int:
        """The most tokens of a completion."""
        return int(self.mask.sum(-1).max())

    def cut(self, longest: int) -> "Rollouts":
        """Return rollouts on the host without places that no completion needs.

        Lengths are few, because a program is compiled for each: T, and its half, quarter and
        eighth.

        Args:
          longest: the most tokens of a completion.
        """
        length = self.tokens.shape[-1]
        length = min(x for part in CUTS if (x := -(-length // part)) >= longest)
        arrays = {name: getattr(self, name) for name in ("tokens", "mask", "rollout_log_probs")}
        return self.replace(**{name: x[..., :length] for name, x in arrays.items()})

    def inputs(self) -> "Rollouts":
        """Return only the arrays that scoring and the update read."""
        return self.replace(log_probs=None, texts=None, rewards=None, records=None, row_ids=None)

    def shard(self, mesh: jax.sharding.Mesh, prompt: Prompt) -> "Rollouts":
        """Return the inputs on the mesh, from rows on the host and prompts on the mesh."""
        inputs = self.inputs().replace(prompt=None)
        return sharding.shard(mesh, inputs, AXES.replace(prompt=None)).replace(prompt=prompt)

    @property
    def number_of_tokens(self) -> int:
        """The number of tokens of all prompts and completions."""
        return sum(record["tokens"] for record in self.records) + int(self.mask.sum())


AXES = Rollouts(  # the logical axes of `inputs`, for `parallel/sharding.py`
    prompt=prompts.AXES, tokens="BGT", mask="BGT", finished="BG", rollout_log_probs="BGT"
)


def concatenate(parts: Sequence[Rollouts]) -> Rollouts:
    """Concatenate the rows of several rollouts on the host, without the prompts.

    If only some of the rollouts have a reward, it is NaN in the rows of the others.
    """
    parts = [part.replace(prompt=None, row_ids=None) for part in parts]
    if parts[0].rewards is not None:
        names = list(dict.fromkeys(name for part in parts for name in part.rewards.names))
        parts = [part.replace(rewards=part.rewards.with_names(names)) for part in parts]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def abstract(prompt: Prompt, mesh: jax.sharding.Mesh, group: int, length: int) -> Rollouts:
    """Return the shapes, dtypes and shardings of `inputs`, for ahead-of-time compilation.

    Args:
      prompt: B prompts.
      mesh: the mesh that the arrays lie on.
      group: G, completions per prompt.
      length: T, tokens of a completion.
    """
    sizes = {"B": len(prompt.mask), "G": group, "T": length}

    def like(axes: str, dtype: Any) -> jax.ShapeDtypeStruct:
        shape = tuple(sizes[axis] for axis in axes)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.sharding(mesh, axes, shape))

    dtypes = {
        "tokens": jnp.int32, "mask": bool, "finished": bool, "rollout_log_probs": jnp.float32,
    }  # fmt: skip
    arrays = {name: like(getattr(AXES, name), dtype) for name, dtype in dtypes.items()}
    return Rollouts(prompt=prompt, **arrays)


def objects(values: Sequence[Any]) -> np.ndarray:
    """Return a one-dimensional array of objects, even if they are sequences."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
