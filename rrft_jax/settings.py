"""Every setting of a run: its default, its meaning, and the values that make sense.

The defaults are the published ones of Reason-RFT, with two exceptions: 16 prompts a batch, because
14 do not divide over a slice, and no checkpoint, data or stage is chosen. A file under `configs/`
states the fields that differ. `command.parse` makes a `Config` of them, once and checked, and the
run hands its sections down. `docs/configs.md` is generated from this file.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from rrft_jax import fields, rewards, tasks
from rrft_jax.errors import UserError
from rrft_jax.fields import (
    AXIS,
    DECAY,
    DTYPE,
    FREE,
    POSITIVE,
    SHARE,
    TOP_P,
    Free,
    Rule,
    at_least,
    field,
    one_of,
)
from rrft_jax.monitoring import trackers
from rrft_jax.monitoring.span import read_span
from rrft_jax.tasks import TASKS, answers, custom

STAGES = ("sft", "grpo")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model, and the way it computes."""

    name: str = field(
        "tiny",
        "The model size whose settings are used. Chosen by `--config=FILE:model=...`, not by "
        "override.",
    )
    path: str = field(
        "",
        "Hugging Face folder, on a disk or at a URL, or the folder of a run, which means its "
        'export. `""` is the packaged base model, which only `tiny` has.',
    )
    adapter: str = field(
        "",
        "PEFT folder of a low-rank adapter of this model, or the folder of a run that trained one. "
        "With `lora.rank` training goes on in it; otherwise it is merged into the weights.",
    )
    dtype: str = field(
        "float32",
        "Dtype of the weights that the optimizer updates: with `lora.rank` those of the adapter. "
        "In bfloat16 they are rounded at random "
        "and take half the memory. Their gradients are float32 sums.",
        DTYPE,
    )
    compute_dtype: str = field("bfloat16", "Dtype of the activations.", DTYPE)
    attention: str = field(
        "auto",
        "`auto` is splash attention on TPUs, cuDNN on GPUs, and XLA elsewhere.",
        one_of("auto", "xla", "splash", "cudnn"),
        FREE,
    )
    remat: str = field(
        "full",
        "The backward pass recomputes every layer (`full`), all but its products with weights and "
        "its attention (`dots`), or nothing (`none`).",
        one_of("none", "full", "dots"),
        FREE,
    )
    logit_chunk: int = field(
        128, "Completion tokens whose logits exist at one time.", at_least(1), FREE
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRASettings:
    """A low-rank adapter that is trained in place of the weights. `docs/lora.md` explains it."""

    rank: int = field(0, "Rank of the adapter. 0 has none: all weights are trained.", at_least(0))
    alpha: float = field(64.0, "The adapter is scaled by alpha / rank.", POSITIVE)
    targets: str = field(
        "decoder",
        "The linear maps that have an adapter. `decoder` is all of the decoder's layers. Otherwise "
        "it is a regular expression of their whole paths, such as `.*/[qv]`.",
    )
    dropout: float = field(0.0, "Share of the adapter's inputs that training sets to 0.", DECAY)
    base_dtype: str = field(
        "",
        'Dtype of the frozen weights. `""` is `model.compute_dtype`. `int8` halves bfloat16.',
        Rule(
            '"" for model.compute_dtype, float32, bfloat16 or int8',
            lambda value: value in ("", "float32", "bfloat16", "int8"),
        ),
    )

    @property
    def scale(self) -> float:
        """The factor of the adapter's product."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The samples: their place, their words, and their limits."""

    path: str = field(
        "",
        "Folder or file of samples: JSON, JSON lines, parquet or Arrow. Without `path` and "
        "`source` the pictures are drawn.",
    )
    source: str = field("", "`tfds:DIR`, a TFDS build, in place of `path`.")
    file: str = field("", "Another training file of the folder, by its name or a part of it.")
    columns: Mapping[str, str] = field(
        {},
        "Part of a sample -> its column in your files, such as `problem` -> `caption`. The parts "
        "are problem, image, answer, cot, system, options, id and level.",
    )
    mixture: str = field("", "JSON or YAML file, a list of places with their weights.")
    image_root: str = field(
        "", 'Folder where the paths of pictures start. `""` looks beside the file of samples.'
    )
    prompts: str = field("", "JSON or YAML file with instructions of your own.")
    system_prompt: str = field("", "Takes the place of the instruction after the question.")
    variant: str = field(
        "",
        "A variant of the instruction for spatial transformation. `caption` asks for a summary "
        "and a caption first. `brief` does not list the calls.",
    )
    min_pixels: int = field(
        0,
        "A smaller picture is enlarged. 0 is the limit of the checkpoint's folder.",
        at_least(0),
        Free("small pictures have another size from here on"),
    )
    max_pixels: int = field(480_000, "A larger picture is made smaller.", at_least(1))
    max_prompt_length: int = field(
        4096, "Tokens. A longer row is left out and counted.", at_least(1)
    )
    max_target_length: int = field(
        2048, "Tokens. A row with a longer target is left out and counted.", at_least(1)
    )
    samples: int = field(
        0,
        "Train on the first samples of each place alone. 0 takes all; of drawn ones, as many as "
        "the stages need.",
        at_least(0),
    )
    activation_samples: int = field(
        1600,
        "Under `reason_rft` the first samples activate reasoning by SFT. GRPO trains on the "
        "others.",
        at_least(1),
    )
    reuse_activation: bool = field(
        False, "GRPO trains on the samples of SFT too. The task says whether it has too few."
    )
    buckets: int = field(4, "The most shapes that a stage's batches are padded to.", at_least(1))
    workers: int = field(0, "Processes that read pictures. 0 reads in threads.", at_least(0), FREE)
    thought_dropout: float = field(
        0.0, "Share of the chains of thought that SFT sees emptied.", SHARE
    )
    max_skipped_share: float = field(
        0.5, "Share of the rows that may be left out; more end the run.", SHARE, FREE
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CustomSettings:
    """The task `custom`: what the model is told beside the question, and the answers' kind."""

    instruction: str = field(
        custom.INSTRUCTION, 'The text that follows a question. `""` gives the question alone.'
    )
    answers: str = field(
        "any",
        "The kind of the right answers. A row with another one is left out and counted. `any` "
        "also takes rows without an answer, which rewards alone can judge.",
        one_of(*answers.KINDS),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How GRPO samples completions."""

    temperature: float = field(0.9, "Divides the logits.", POSITIVE)
    top_k: int = field(
        50, "Draw from the likeliest tokens. 0 is the whole vocabulary.", at_least(0)
    )
    top_p: float = field(
        0.9, "Draw from the likeliest tokens with this share. 1 is the whole vocabulary.", TOP_P
    )
    max_new_tokens: int = field(512, "Tokens of the longest completion.", at_least(1))
    cache_chunk: int = field(
        256, "Tokens by which the cache of completions grows.", at_least(1), FREE
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """The evaluation of held-out splits."""

    tasks: tuple[str, ...] = field(
        (),
        "Tasks whose splits are evaluated, each once. `()` is the config's own task.",
    )
    splits: tuple[str, ...] = field(
        (), "Held-out splits to evaluate, in this order. `()` is all that the data has."
    )
    rewards: Mapping[str, Any] = field(
        {},
        "As `grpo.rewards`: every completion is scored by them too, and results have their means.",
    )
    reward_seconds: float = field(2.0, "As `grpo.reward_seconds`.", POSITIVE)
    samples: int = field(
        0,
        "Samples of each split. 0 takes all, or 1,000 if they are drawn.",
        at_least(0),
        Free("finished evaluations keep their samples"),
    )
    passes: int = field(1, "Completions per sample. The score is their mean.", at_least(1))
    batch_size: int = field(16, "Samples at a time.", at_least(1), FREE)
    temperature: float = field(0.1, "Divides the logits. 0 is greedy.", at_least(0))
    top_k: int = field(50, "As in `sampling`.", at_least(0))
    top_p: float = field(0.9, "As in `sampling`.", TOP_P)
    max_new_tokens: int = field(768, "Tokens of the longest completion.", at_least(1))
    sampled: bool = field(False, "Report the accuracy at temperature 1 as well.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Devices along each axis, of all processes together. One axis may be -1: the rest."""

    data: int = field(-1, "Each device has a copy of the weights, and rows of its own.", AXIS, FREE)
    fsdp: int = field(
        1, "Devices share the weights and the optimizer, and each has its own rows.", AXIS, FREE
    )
    tensor: int = field(1, "Devices share the weights, and work on the same rows.", AXIS, FREE)
    show: bool = field(False, "Print where each parameter lies.", free=FREE)

    @property
    def axes(self) -> dict[str, int]:
        """The sizes of the axes, as `make_mesh` takes them."""
        return {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}


# More steps of a stage that has begun: no step is lost, but the schedule is another one.
_MORE = Free("its learning rate decays over the new number of steps from here on", only_more=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Fields that both stages of training have."""

    b1: float = field(0.9, "Adam's decay of the first moment.", DECAY)
    b2: float = field(0.999, "Adam's decay of the second moment.", DECAY)
    eps: float = field(1e-8, "Adam's epsilon.", POSITIVE)
    clip_norm: float = field(1.0, "Gradients of a larger norm are scaled down to it.", POSITIVE)
    moment_dtype: str = field(
        "float32", "Dtype of both of Adam's moments. bfloat16 halves their memory.", DTYPE
    )
    steps: int = field(0, "Steps of the stage. 0: as many as the epochs have.", at_least(0), _MORE)
    epochs: int = field(1, "Passes over the samples.", at_least(1), _MORE)
    batch_size: int = field(
        16,
        "Prompts per step: a multiple of mesh.data x mesh.fsdp x mini_batches x micro_batches.",
        at_least(1),
    )
    micro_batches: int = field(
        0,
        "Parts of a batch whose gradients are added up before the update. 0: as many as leave a "
        "device one row at a time, which takes the least memory.",
        at_least(0),
        FREE,
    )
    learning_rate: float = field(1e-5, "The highest, after the warm-up.", at_least(0))
    schedule: str = field("cosine", "Decay of the learning rate to 0.", one_of("cosine", "linear"))
    warmup_steps: int = field(0, "Steps in which the learning rate rises from 0.", at_least(0))
    weight_decay: float = field(0.0, "AdamW's, of all but biases and norms.", at_least(0))
    freeze: str = field(
        "",
        "Regular expression of the parameters that are not trained, and have no optimizer state. "
        '`""` trains all.',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTSettings(StageSettings):
    """Supervised fine-tuning, alone or as the first stage of `reason_rft`."""

    mini_batches: ClassVar[int] = 1  # a step is one update

    learning_rate: float = 1e-5
    schedule: str = "cosine"
    warmup_steps: int = 100  # the 1,600 / 16 steps that activate reasoning are all of it
    weight_decay: float = 0.1
    freeze: str = r"vision/.*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPOSettings(StageSettings):
    """Group relative policy optimization. `docs/algorithms.md` explains the objective's terms."""

    learning_rate: float = 1e-6
    schedule: str = "linear"
    num_generations: int = field(8, "Completions per prompt.", at_least(2))
    num_iterations: int = field(1, "Passes over one batch of completions.", at_least(1))
    mini_batches: int = field(1, "Parts of the batch in a pass, each an update.", at_least(1))
    advantages: str = field("group_std", "How rewards become advantages.")
    ratio: str = field("token", "The ratio between the policy and the one that sampled.")
    epsilon_low: float = field(0.2, "The lower bound of the ratio is 1 minus this.", SHARE)
    epsilon_high: float = field(0.2, "The upper bound of the ratio is 1 plus this.", at_least(0))
    dual_clip: float = field(
        0.0,
        "The upper bound of the ratio if the advantage is negative. 0 sets no bound.",
        Rule("more than 1, or 0 for none", lambda value: value == 0 or 1 < value < math.inf),
    )
    aggregation: str = field("sequence", "How the losses of tokens become the loss of a batch.")
    beta: float = field(
        0.04,
        "Weight of the KL penalty to the policy before this stage. 0 keeps no such policy.",
        at_least(0),
    )
    reference_dtype: str = field(
        "",
        'Dtype of the reference policy. `""` is `model.compute_dtype`. `int8` halves bfloat16.',
        Rule('"" for model.compute_dtype, or int8', lambda value: value in ("", "int8")),
    )
    kl: str = field("k3", "How the KL is estimated.")
    kl_in: str = field("loss", "Where the KL penalty is applied.")
    entropy_bonus: float = field(0.0, "Weight of the entropy in the objective.", at_least(0))
    mask_truncated: bool = field(False, "Completions that are cut at the limit carry no loss.")
    dynamic_sampling: int = field(
        0,
        "Batches of fresh prompts that a step may sample to replace groups whose rewards are all "
        "the same.",
        at_least(0),
    )
    importance_sampling: str = field(
        "none",
        "Weights between the distribution that tokens were drawn from and the policy at "
        "temperature 1.",
    )
    importance_cap: float = field(2.0, "The largest importance weight.", POSITIVE)
    reward_seconds: float = field(
        2.0, "Time limit for the rewards of one completion. Past it they are 0.", POSITIVE
    )
    rewards: Mapping[str, Any] = field(
        {},
        "Name or dotted path of a function -> its weight in the sum, or a mapping of its `weight` "
        "and options. The task has a default.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    seed: int = field(0, "The seed of everything that is drawn.", at_least(0))
    task: str = field(next(iter(TASKS)), "Chosen by `--config=FILE:task=...`, not by override.")
    paradigm: str = field("reason_rft", "Chosen by `--config=FILE:paradigm=...`, not by override.")
    stages: tuple[str, ...] = field(
        (),
        "Stages of training to run, `sft` and `grpo`, in order. Evaluation always follows.",
        fields.each_once(STAGES, ordered=True),
    )
    checkpoint_every: int = field(100, "Steps between checkpoints.", at_least(1), FREE)
    eval_every: int = field(
        0,
        "Steps between evaluations. 0 evaluates only after each stage.",
        at_least(0),
        Free("steps that are done are not evaluated"),
    )
    rollouts_every: int = field(
        10, "Steps between the completions that `rollouts.jsonl` keeps.", at_least(1), FREE
    )
    trackers: tuple[str, ...] = field(
        (),
        "Trackers that show the run's numbers and completions. Each is an extra of the package.",
        fields.each_once(trackers.NAMES),
        FREE,
    )
    profile: str = field(
        "",
        "Steps whose time is traced, such as `grpo@10:12`, or `10:12` of the last stage.",
        free=FREE,
    )
    best_split: str = field(
        "",
        "Split by which the best of a stage's evaluated weights are found, to be kept beside the "
        'last ones. `""` is the first split.',
    )
    best_metric: str = field(
        "",
        "The best are those with the highest `accuracy`, the highest mean of one of "
        "`eval.rewards`, or the highest `reward`, which is their weighted sum. "
        '`""` is accuracy, or reward for a split without answers.',
    )
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    lora: LoRASettings = dataclasses.field(default_factory=LoRASettings)
    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    custom: CustomSettings = dataclasses.field(default_factory=CustomSettings)
    sampling: SamplingSettings = dataclasses.field(default_factory=SamplingSettings)
    eval: EvalSettings = dataclasses.field(default_factory=EvalSettings)
    mesh: MeshSettings = dataclasses.field(default_factory=MeshSettings)
    sft: SFTSettings | None = None
    grpo: GRPOSettings | None = None

    def stage(self, name: str) -> SFTSettings | GRPOSettings:
        """Return the section of a stage that the config runs."""
        return getattr(self, name)


def make(values: Mapping[str, Any]) -> Config:
    """Make the settings of a run from plain values, and check them.

    Raises:
      UserError: names the first field that is unknown or makes no sense, and says what it may be.
    """
    config = fields.build(Config, values)
    _check_tasks(config)
    _check_evaluation(config)
    for name in config.stages:
        if config.stage(name) is None:
            raise UserError(f"--config.stages={name}: this config has no section {name}")
        _check_batches(name, config.stage(name))
    read_span(config.profile, config.stages)
    if "grpo" in config.stages:
        _check_grpo(config.grpo)
    return config


def _check_tasks(config: Config) -> None:
    for key, names in (("task", [config.task]), ("eval.tasks", config.eval.tasks)):
        for name in names:
            try:
                tasks.find(name)
            except UserError as error:
                raise UserError(f"--config.{key}: {error}") from None
    for key in ("tasks", "splits"):
        names = getattr(config.eval, key)
        if len(set(names)) < len(names):
            raise UserError(f"--config.eval.{key}={','.join(names)}: expected each once")


def _check_evaluation(config: Config) -> None:
    settings = config.eval
    if settings.passes > 1 and settings.temperature == 0:
        raise UserError(
            f"--config.eval.passes={settings.passes}: at eval.temperature=0 all completions of "
            "a sample are the same; expected 1, or a temperature above 0"
        )
    terms = rewards.read_terms(settings.rewards, "--config.eval.rewards")
    metrics = ["accuracy", *(["reward", *(term.name for term in terms)] if terms else [])]
    if config.best_metric not in ("", *metrics):
        raise UserError(
            f"--config.best_metric={config.best_metric}: expected one of {', '.join(metrics)}; "
            "--config.eval.rewards.NAME=1 adds a reward"
        )


def _check_batches(stage: str, settings: SFTSettings | GRPOSettings) -> None:
    parts = {name: getattr(settings, name) for name in ("mini_batches", "micro_batches")}
    parts = {name: number for name, number in parts.items() if number > 1}
    if settings.batch_size % math.prod(parts.values()):
        product = " x ".join(f"{stage}.{name}={number}" for name, number in parts.items())
        raise UserError(
            f"--config.{stage}.batch_size={settings.batch_size}: expected a multiple of {product}"
        )


def _check_grpo(settings: GRPOSettings) -> None:
    rewards.read_terms(settings.rewards, "--config.grpo.rewards")
    if settings.ratio == "cispo" and settings.dual_clip:
        raise UserError(
            f"--config.grpo.dual_clip={settings.dual_clip}: grpo.ratio=cispo bounds the ratio by "
            "epsilon_high, whatever the advantage; expected 0"
        )
