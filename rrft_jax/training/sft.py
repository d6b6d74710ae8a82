"""Supervised fine-tuning: cross-entropy on the target's tokens, which is `score` with G = 1."""

from collections.abc import Callable, Iterator

import flax
import jax
import jax.numpy as jnp
import optax

from rrft_jax.data import Batch
from rrft_jax.models import prompt as prompts
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM
from rrft_jax.monitoring.stopwatch import Stopwatch
from rrft_jax.parallel import sharding
from rrft_jax.settings import Config
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training import tuning
from rrft_jax.training.state import TrainState


@flax.struct.dataclass
class SFTBatch:
    """Prompts and their target completions.

    `completions` [B,G,T] are the target's tokens, end of turn included. G is 1, unless several
    texts share one prompt. `mask` [B,G,T] is True on the tokens that carry loss.
    """

    prompt: Prompt
    completions: jax.Array
    mask: jax.Array


AXES = SFTBatch(prompt=prompts.AXES, completions="BGT", mask="BGT")


class SFT:
    """The stage "sft": its steps, and all that they need besides the state and the data."""

    stage = "sft"

    def __init__(self, config: Config, model: VLM, params: dict, steps: int):
        """Prepare the stage, which starts from `params`; the first step consumes what it trains."""
        settings, self.mesh = config.sft, model.mesh
        optimizer = optimizers.make_optimizer(settings, steps)
        self.learning_rate = jax.jit(optimizers.learning_rate(settings, steps))
        self.base, trained = tuning.split(params)
        self.state = states.create(trained, optimizer, settings.freeze, self.mesh)
        self.update = make_step(
            model,
            optimizer,
            settings.freeze,
            settings.micro_batches,
            states.layout(self.state),
            config.seed,
        )

    def place(self, batch: Batch) -> SFTBatch:
        """Return the arrays of a batch, sharded over the mesh."""
        rows = SFTBatch(batch.prompt, batch.completions, batch.completion_mask)
        return sharding.shard(self.mesh, rows, AXES)

    def step(
        self, state: TrainState, batches: Iterator[tuple[Batch, SFTBatch]], number: int
    ) -> tuple[TrainState, dict, tuple]:
        """Learn from one batch. Return (the state after, metrics, no rollouts)."""
        batch, placed = next(batches)
        clock = Stopwatch()
        with clock("update"):
            state, metrics = self.update(state, placed, self.base)
            metrics = jax.device_get(metrics)
        return (
            state,
            {
                **metrics,
                "learning_rate": self.learning_rate(number - 1),
                "tokens_per_second": batch.tokens / clock.total,
                **clock.seconds,
                **batch.padding,
            },
            (),
        )


def loss(model: VLM, params: dict, batch: SFTBatch, tokens: jax.Array):
    """Return the negative log-likelihood, summed over a (micro-)batch and divided by `tokens`.

    Returns:
      (loss, metrics); both add up over micro-batches.
    """
    log_probs, entropy = model.score_with_entropy(params, batch.prompt, batch.completions)
    weights = batch.mask / tokens
    return -jnp.sum(log_probs * weights), {"entropy": jnp.sum(entropy * weights)}


def make_step(
    model: VLM,
    optimizer: optax.GradientTransformation,
    freeze: str,
    micro_batches: int,
    layout: TrainState,
    seed: int = 0,
) -> Callable[..., tuple[TrainState, dict]]:
    """Return the jitted step: (state, batch, base) -> (state, metrics). It consumes the state.

    With `micro_batches` 0 there are as many as leave each device one row at a time. `layout` is a
    tree of shardings like the state (`state.layout`); the new state has the same layout. `base` are
    the frozen weights beside an adapter (`tuning.py`). The dropout of an adapter depends on `seed`.
    """

    @jax.named_scope("update")
    def sft_step(state: TrainState, batch: SFTBatch, base: dict | None = None):
        tokens = jnp.maximum(jnp.sum(batch.mask), 1)
        number = micro_batches or sharding.one_row_each(model.mesh, len(batch.mask))
        keys = tuning.row_keys(model, seed, state.step, len(batch.mask))

        def of_part(params: dict, part: tuple[SFTBatch, jax.Array | None]):
            batch, keys = part
            return loss(model, tuning.whole(model, base, params, keys), batch, tokens)

        parts = sharding.micro_batches((batch, keys), (AXES, tuning.axes(keys)), number)
        new, metrics = states.update(state, optimizer, freeze, of_part, parts)
        return new, {**metrics, "target_tokens": tokens}

    return jax.jit(sft_step, donate_argnums=0, out_shardings=(layout, None))
