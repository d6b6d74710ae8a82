"""AdamW with warm-up and decay, from optax, as the public scripts of Reason-RFT set it."""

import ml_collections
import optax

DECAYED = ("kernel", "embedding")  # biases and norms are never pulled towards zero


def learning_rate(config: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up to `config.learning_rate`, then "cosine" or "linear" decay to zero."""
    peak, warmup = config.learning_rate, min(config.warmup_steps, steps)
    rest = max(steps - warmup, 1)
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, rest)
    else:
        decay = optax.linear_schedule(peak, 0.0, rest)
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def make_optimizer(config: ml_collections.ConfigDict, steps: int) -> optax.GradientTransformation:
    """The optimizer of a stage (`config.sft` or `config.grpo`) that lasts `steps` steps.

    It works on a flat dict {path: array}, as `state.split` gives. `config.moment_dtype` is that of
    the first moment. The second stays float32: at b2 = 0.999 a step changes it by less than
    bfloat16 can tell, and it would stand still.
    """

    def decayed(params: dict) -> dict:
        return {path: path.endswith(DECAYED) for path in params}

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            mu_dtype=config.moment_dtype,
            weight_decay=config.weight_decay,
            mask=decayed,
        ),
    )
