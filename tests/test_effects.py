"""A value that a user has set in vain is refused; a value of a config file of ours never is."""

import functools

import pytest

from rrft_jax import command, fields
from rrft_jax.effects import check
from rrft_jax.errors import UserError
from rrft_jax.settings import Config

IN_VAIN = [
    ("grpo", ["grpo.beta=0", "grpo.kl_in=reward"], "--config.grpo.beta=0 leaves the KL"),
    ("grpo", ["grpo.beta=0", "grpo.kl=k1"], "--config.grpo.beta=0 leaves the KL"),
    ("grpo", ["grpo.beta=0", "grpo.reference_dtype=int8"], "--config.grpo.beta=0 leaves the KL"),
    ("grpo", ["grpo.importance_cap=3"], "--config.grpo.importance_sampling=none has no weights"),
    ("grpo", ["grpo.epsilon_high=0.28"], "with one update a batch the ratio is 1"),
    ("grpo", ["grpo.epsilon_low=0.1"], "with one update a batch the ratio is 1"),
    ("grpo", ["grpo.dual_clip=3"], "with one update a batch the ratio is 1"),
    ("grpo", ["grpo.ratio=sequence"], "with one update a batch all ratios are 1"),
    ("grpo", ["grpo.epochs=3"], "set --config.grpo.steps=0 beside it"),
    ("grpo", ["sft.epochs=3"], "set --config.sft.steps=0 beside it"),
    ("grpo:paradigm=reason_rft_zero", ["sft.steps=7"], "the stage sft does not run"),
    ("grpo", ["eval.top_p=0.5"], "--config.eval.temperature=0 takes the likeliest token"),
    ("grpo", ["data.image_root=pictures"], "set --config.data.path or --config.data.mixture"),
    ("grpo", ["data.columns.problem=q"], "set --config.data.path or --config.data.mixture"),
    ("sft", ["data.source=tfds:x", "data.file=a"], "set --config.data.path or --config.data.mix"),
    ("grpo:paradigm=reason_rft_zero", ["data.thought_dropout=1"], "only SFT has targets"),
    ("grpo:paradigm=reason_rft_zero", ["data.reuse_activation=true"], "only paradigm=reason_rft"),
    ("sft", ["sampling.top_k=7"], "only GRPO samples by it"),
    ("sft", ["rollouts_every=7"], "only GRPO samples by it"),
    ("eval", ["eval_every=7"], "this config trains nothing"),
    ("eval", ["model.remat=dots"], "this config trains nothing"),
    ("eval", ["best_metric=accuracy"], "this config trains nothing"),
    ("eval", ["eval.reward_seconds=9"], "no reward is evaluated"),
    ("grpo", ["custom.answers=json"], "only the task custom has it"),
    ("grpo", ["lora.alpha=16"], "--config.lora.rank=0 trains all weights and no adapter"),
    ("sft", ["lora.dropout=0.1"], "choose --config=FILE:tuning=lora, or give a rank"),
    ("grpo:tuning=lora", ["grpo.freeze=vision/.*"], "the adapter alone is trained"),
    ("sft:tuning=lora", ["sft.freeze="], "choose its weights by --config.lora.targets"),
    ("grpo:tuning=lora", ["grpo.reference_dtype=int8"], "the reference is the frozen weights"),
    ("eval", ["lora.rank=8"], "this config trains nothing"),
]
EFFECTIVE = [
    ("grpo", ["stages=sft", "grpo.batch_size=8", "sampling.top_k=7"]),  # of a stage left out
    ("grpo", ["grpo.kl_in=reward", "grpo.kl=k1", "grpo.reference_dtype=int8"]),
    ("grpo", ["grpo.beta=0", "grpo.kl_in=loss"]),  # the default
    ("grpo", ["grpo.importance_sampling=token", "grpo.importance_cap=3", "grpo.ratio=sequence"]),
    ("grpo", ["grpo.mini_batches=2", "grpo.epsilon_high=0.28", "grpo.dual_clip=3"]),
    ("grpo", ["grpo.num_iterations=2", "grpo.ratio=cispo", "grpo.epsilon_low=1"]),
    ("grpo", ["grpo.steps=0", "grpo.epochs=3"]),
    ("grpo:objective=rloo", ["grpo.beta=0"]),  # kl_in is the objective's choice
    ("grpo:objective=dapo", ["grpo.mini_batches=1"]),
    ("grpo", ["eval.temperature=0.5", "eval.top_p=0.5"]),
    ("sft:paradigm=ans_sft", ["data.activation_samples=100"]),
    ("grpo:task=custom", ["custom.answers=json"]),
    ("sft", ["lora.rank=8", "lora.alpha=16", "lora.targets=vision/.*", "lora.base_dtype=int8"]),
    ("grpo:tuning=lora", ["lora.dropout=0.1", "grpo.beta=0.1"]),
    ("grpo", ["data.path=x", "data.columns.problem=q", "data.file=a", "data.image_root=y"]),
    ("eval", ["eval.rewards.format=1", "eval.reward_seconds=9"]),
]


def _arguments(config: str, settings: list[str]) -> list[str]:
    name, _, choice = config.partition(":")
    return [f"--config=configs/{name}.py:{choice}", *(f"--config.{one}" for one in settings)]


@pytest.mark.parametrize("config, settings, reason", IN_VAIN)
def test_a_value_without_effect_is_refused(config, settings, reason, tmp_path):
    with pytest.raises(UserError) as error:
        command.parse([*_arguments(config, settings), f"--workdir={tmp_path}"])
    message, key = str(error.value), settings[-1].partition("=")[0]
    assert f"--config.{key}".startswith(message.partition("=")[0]) and ": no effect: " in message
    assert reason in message and "\n" not in message


@pytest.mark.parametrize("config, settings", EFFECTIVE)
def test_a_value_with_effect_is_accepted(config, settings, tmp_path):
    taken, _ = command.parse([*_arguments(config, settings), f"--workdir={tmp_path}"])
    key, _, value = settings[-1].partition("=")
    found = functools.reduce(getattr, key.split("."), taken)
    assert str(found).removesuffix(".0") == value


def test_a_value_that_a_file_of_the_user_assigns_is_refused_too(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from configs import grpo\n\ndef get_config(arg=''):\n"
        "  config = grpo.get_config(arg)\n  config.grpo.kl_in = 'reward'\n  return config\n"
    )
    command.parse([f"--config={own}"])
    with pytest.raises(UserError, match="grpo.kl_in=reward: no effect"):
        command.parse([f"--config={own}", "--config.grpo.beta=0"])


def test_a_run_that_has_begun_goes_on_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    config, _ = command.parse(["--config.grpo.epsilon_high=0.28", f"--workdir={tmp_path}"])
    assert config.grpo.epsilon_high == 0.28


def test_the_defaults_alone_are_never_refused():
    check(Config(), [found.key for found in fields.every(Config)])
