"""Settings that have no effect beside others: a value that a user has chosen in vain is refused."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from rrft_jax import fields
from rrft_jax.errors import UserError
from rrft_jax.settings import STAGES, Config
from rrft_jax.tasks import CUSTOM


class _Idle(NamedTuple):
    """Fields that have no effect if something holds for a config.

    Attributes:
      fields: their keys; the name of a section stands for all of its fields.
      reason: the reason, and how to give the fields an effect.
      holds: whether they have no effect.
    """

    fields: tuple[str, ...]
    reason: str
    holds: Callable[[Config], bool]


def _one_update(config: Config) -> bool:
    return config.grpo.num_iterations * config.grpo.mini_batches == 1


# Of the stages that a config file runs. If the command line leaves some of them out, the fields of
# the others stay as they are.
_OF_STAGES = (
    *(
        _Idle(
            (stage,),
            f"the stage {stage} does not run; add it to --config.stages",
            lambda config, stage=stage: stage not in config.stages,
        )
        for stage in STAGES
    ),
    _Idle(
        (
            *("checkpoint_every", "eval_every", "best_split", "best_metric", "model.remat"),
            *("data.samples", "lora"),
        ),
        "this config trains nothing; choose a config with a stage",
        lambda config: not config.stages,
    ),
    _Idle(
        ("sampling", "rollouts_every"),
        "only GRPO samples by it; an evaluation has the fields of --config.eval",
        lambda config: "grpo" not in config.stages,
    ),
    _Idle(
        ("data.thought_dropout", "data.max_target_length"),
        "only SFT has targets; add it to --config.stages",
        lambda config: "sft" not in config.stages,
    ),
    _Idle(
        ("data.activation_samples", "data.reuse_activation"),
        "only paradigm=reason_rft divides the samples between SFT and GRPO",
        lambda config: config.paradigm != "reason_rft" and "sft" not in config.stages,
    ),
)
_OF_FIELDS = (
    _Idle(
        ("lora.alpha", "lora.targets", "lora.dropout", "lora.base_dtype"),
        "--config.lora.rank=0 trains all weights and no adapter; choose --config=FILE:tuning=lora, "
        "or give a rank",
        lambda config: not config.lora.rank,
    ),
    _Idle(
        ("sft.freeze", "grpo.freeze"),
        "the adapter alone is trained; choose its weights by --config.lora.targets",
        lambda config: config.lora.rank > 0,
    ),
    _Idle(
        ("grpo.reference_dtype",),
        "the reference is the frozen weights themselves; --config.lora.base_dtype is their dtype",
        lambda config: config.lora.rank > 0,
    ),
    _Idle(
        ("data.image_root", "data.columns", "data.file"),
        "no file of rows is read; set --config.data.path or --config.data.mixture",
        lambda config: not (config.data.path or config.data.mixture),
    ),
    _Idle(
        ("custom",),
        f"only the task {CUSTOM} has it; choose it by --config=FILE:task={CUSTOM}",
        lambda config: CUSTOM not in (config.task, *config.eval.tasks) and not config.data.mixture,
    ),
    _Idle(
        ("eval.reward_seconds",),
        "no reward is evaluated; add one by --config.eval.rewards.NAME=1",
        lambda config: not config.eval.rewards,
    ),
    _Idle(
        ("eval.top_k", "eval.top_p"),
        "--config.eval.temperature=0 takes the likeliest token",
        lambda config: config.eval.temperature == 0,
    ),
    *(
        _Idle(
            (f"{stage}.epochs",),
            f"{stage}.steps says how long the stage is; set --config.{stage}.steps=0 beside it",
            lambda config, stage=stage: config.stage(stage).steps > 0,
        )
        for stage in STAGES
    ),
    _Idle(
        ("grpo.kl", "grpo.kl_in", "grpo.reference_dtype"),
        "--config.grpo.beta=0 leaves the KL penalty out; give it a weight",
        lambda config: config.grpo.beta == 0,
    ),
    _Idle(
        ("grpo.importance_cap",),
        "--config.grpo.importance_sampling=none has no weights; choose token or sequence",
        lambda config: config.grpo.importance_sampling == "none",
    ),
    _Idle(
        ("grpo.epsilon_low", "grpo.epsilon_high", "grpo.dual_clip"),
        "with one update a batch the ratio is 1; raise --config.grpo.mini_batches or "
        "--config.grpo.num_iterations",
        _one_update,
    ),
    _Idle(
        ("grpo.ratio",),
        "with one update a batch all ratios are 1; raise --config.grpo.mini_batches or "
        "--config.grpo.num_iterations",
        # A sequence's ratio also spreads the weights of single tokens over the sequence.
        lambda config: _one_update(config) and config.grpo.importance_sampling != "token",
    ),
)


def check(config: Config, chosen: Collection[str]) -> None:
    """Refuse a field that the user has set to another value than its default, without any effect.

    Args:
      config: the settings.
      chosen: the keys of the fields that the user has set.

    Raises:
      UserError: names the field, and says what it needs to have an effect.
    """
    rules = _OF_FIELDS if "stages" in chosen else (*_OF_STAGES, *_OF_FIELDS)
    for found, value in fields.items(config):
        if found.key not in chosen or value == found.default:
            continue
        if reason := _reason(config, found.key, rules):
            raise UserError(f"--config.{found.key}={value}: no effect: {reason}")


def of_other_stages(config: Config, key: str) -> str:
    """Return the reason why a field has no effect in the stages of a config; "" if it may have."""
    return _reason(config, key, _OF_STAGES)


def _reason(config: Config, key: str, rules: Collection[_Idle]) -> str:
    for idle in rules:
        named = key in idle.fields or key.partition(".")[0] in idle.fields
        if named and idle.holds(config):
            return idle.reason
    return ""
