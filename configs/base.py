"""The parts that the experiments share, and the function that makes a config from plain fields.

Fields are named as on the command line. If several places set a field, the last one counts:

    rrft_jax/settings.py     the default, with its meaning
    rrft_jax/tasks/TASK.py   the task's rewards and epochs, and whether it reuses samples
    MODELS                   the model
    configs/tiny_*.py        the experiment, if the model is tuned for the task
    configs/objectives.py    the objective
    TUNINGS                  the weights that are trained

`configs/grpo.py`, `configs/sft.py` and `configs/eval.py` choose an experiment by name.
"""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from configs import tiny_visual_counting
from configs.objectives import OBJECTIVES
from rrft_jax import settings
from rrft_jax.errors import UserError
from rrft_jax.fields import plain
from rrft_jax.origins import OBJECTIVE, Layered
from rrft_jax.tasks import CUSTOM, TASKS, find

# `fsdp` splits weights and optimizer over all devices, but the sampler's weights only `tensor`
# splits. So 7B needs `tensor`: its 15 GB of weights are too much for a device of 16 GB. 4B needs
# some too: 9 GB beside everything else are too much for it.
MODELS = {
    "tiny": tiny_visual_counting.MODEL,
    "2b": {"mesh.data": 1, "mesh.fsdp": -1},
    "7b": {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": 4},
    "qwen2_5_vl_3b": {"mesh.data": 1, "mesh.fsdp": -1},
    "qwen2_5_vl_7b": {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": 4},
    "qwen3_vl_2b": {"mesh.data": 1, "mesh.fsdp": -1},
    "qwen3_vl_4b": {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": 2},
    "qwen3_vl_8b": {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": 4},
}

# Fields that change what is learnt. The values of `tiny` for them suit its drawn samples. Other
# samples have the task's values, or the defaults.
DRAWN_ALONE = ("data.thought_dropout", "grpo.rewards")

Fields = Mapping[str, Any]


class Tuning(NamedTuple):
    """The weights that are trained, and how many times the learning rates of full fine-tuning."""

    fields: Fields
    faster: int
    tiny_faster: int  # of the packaged model, whose rates are high already


# An adapter (`docs/lora.md`) learns best at about ten times the rates of full fine-tuning, by SFT
# and by reinforcement learning, whatever the model and the rank: Schulman and others, "LoRA Without
# Regret", https://thinkingmachines.ai/blog/lora, 2025. The loss of the tiny model after 120 steps
# of SFT is 0.14 at three times, 0.16 at ten times, and 0.13 by full fine-tuning.
TUNINGS = {
    "full": Tuning({}, faster=1, tiny_faster=1),
    "lora": Tuning({"lora.rank": 64, "lora.alpha": 64.0}, faster=10, tiny_faster=3),
}


class Choice(NamedTuple):
    """The names in the argument of a config file: `FILE:model=...,task=...,paradigm=...`."""

    model: str
    task: str
    paradigm: str
    objective: str = "grpo"
    tuning: str = "full"

    @property
    def experiment(self) -> tuple[str, str, str]:
        """The key of a tuned experiment in a config file's `EXPERIMENTS`."""
        return self.model, self.task, self.paradigm


def choose(
    arg: str,
    paradigms: tuple[str, ...],
    objectives: tuple[str, ...] = (),
    tunings: tuple[str, ...] = (),
) -> Choice:
    """Read the argument of a config file.

    Args:
      arg: comma-separated `name=choice` pairs in any order; the first choice of a name is its
        default.
      paradigms: the paradigms of the config file.
      objectives: its objectives, if it has the stage that they belong to.
      tunings: the weights that it may train, if it trains.

    Raises:
      UserError: a name or a choice does not exist; the message lists the existing ones.
    """
    choices = {"model": tuple(MODELS), "task": (*TASKS, CUSTOM), "paradigm": paradigms}
    more = {"objective": objectives, "tuning": tunings}
    choices |= {name: available for name, available in more.items() if available}
    chosen = {name: available[0] for name, available in choices.items()}
    for pair in filter(None, (pair.strip() for pair in arg.split(","))):
        name, _, choice = (part.strip() for part in pair.partition("="))
        if name not in choices:
            raise UserError(
                f"config argument {pair!r}: expected name=choice with name one of "
                f"{', '.join(choices)}"
            )
        if name == "task":
            find(choice)  # may be a module of the user's own
        elif choice not in choices[name]:
            raise UserError(
                f"config argument {pair!r}: {name} is one of {', '.join(choices[name])}"
            )
        chosen[name] = choice
    return Choice(**chosen)


def base(
    choice: Choice,
    experiments: Mapping[tuple[str, str, str], Fields],
    sections: settings.Config,
) -> ml_collections.ConfigDict:
    """Make a config.

    Args:
      choice: the model, the task, the paradigm, the objective and the tuning.
      experiments: the fields of each tuned experiment, by `Choice.experiment`; a field of a stage
        that the config does not have is left out.
      sections: the defaults, with the sections of the config's stages.

    Raises:
      UserError: a field does not exist.
    """
    values, task = plain(sections), find(choice.task)
    own = {
        "task": choice.task,
        "data.reuse_activation": task.reuse_activation,
        "grpo.epochs": task.epochs,
        "grpo.rewards": task.rewards,
    }
    layers: list[tuple[str, Fields]] = [
        (f"task={choice.task}", own),
        (f"paradigm={choice.paradigm}", {"paradigm": choice.paradigm, "stages": sections.stages}),
        (f"model={choice.model}", {"model.name": choice.model, **MODELS[choice.model]}),
    ]
    if tuned := experiments.get(choice.experiment):
        layers.append((_file(tuned), tuned))
    layers.append((OBJECTIVE + choice.objective, OBJECTIVES[choice.objective].fields))
    tuning = TUNINGS[choice.tuning]
    faster = tuning.tiny_faster if choice.model == "tiny" else tuning.faster
    rates = {
        # Rounded, because ten times 1e-6 is 9.999999999999999e-06.
        f"{stage}.learning_rate": round(faster * _rate(layers, stage, values), 12)
        for stage in sections.stages
    }
    layers.append((f"tuning={choice.tuning}", {**tuning.fields, **rates}))
    drawn: dict[str, tuple[Any, Any]] = {}
    for _, fields in layers:
        for key, value in fields.items():
            section, _, field = key.rpartition(".")
            if section in settings.STAGES and section not in values:
                continue
            target = values.get(section, {}) if section else values
            if field not in target:
                raise UserError(
                    f"unknown config key {key}: expected a field of rrft_jax/settings.py"
                )
            if fields is not own and key in DRAWN_ALONE:
                drawn[key] = value, drawn.get(key, (None, target[field]))[1]
            target[field] = value
    return Layered(values, layers, drawn)


def _rate(layers: list[tuple[str, Fields]], stage: str, values: Mapping[str, Any]) -> float:
    """Return the learning rate that a stage has without a tuning."""
    key = f"{stage}.learning_rate"
    stated = [fields[key] for _, fields in layers if key in fields]
    return stated[-1] if stated else values[stage]["learning_rate"]


def _file(fields: Fields) -> str:
    """Return the file of this folder that states the fields of an experiment."""
    for name, module in sys.modules.items():
        if name.startswith("configs.") and any(value is fields for value in vars(module).values()):
            return f"{name.replace('.', '/')}.py"
    return "experiment"
