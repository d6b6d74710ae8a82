"""The cells of a study: one run for each paradigm, number of samples and seed."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from rrft_jax import command, effects
from rrft_jax.errors import UserError
from rrft_jax.fields import plain, replaced
from rrft_jax.monitoring import say
from rrft_jax.settings import Config

# Under `reason_rft`, one sample in so many activates reasoning, and GRPO has the others. The first
# ones are at most `data.activation_samples`, 1,600 as in the paper.
ACTIVATION_SHARE = 4
_OF_A_CELL = ("seed", "stages", "data.samples")  # fields that differ between cells


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
      paradigm: its paradigm.
      samples: the training samples that all of its stages have together.
      seed: its seed; the runs of a seed and a number of samples have the same samples.
      folder: the run's folder.
      arguments: those of `rrft_jax.main`, without the folder.
      config: the settings that the arguments come to.
    """

    paradigm: str
    samples: int
    seed: int
    folder: pathlib.Path
    arguments: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        """The name in messages: the folder's last two parts."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def begun(self) -> bool:
        """Whether the run has claimed its folder."""
        return (self.folder / "config.json").exists()

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end, where it writes its table."""
        return self.begun and (self.folder / "table.md").exists()


@dataclasses.dataclass(frozen=True)
class Choice:
    """The cells that a study is to have; an empty list takes that of the config file."""

    paradigms: Sequence[str] = ()
    samples: Sequence[int] = ()
    seeds: Sequence[int] = ()


def read(
    config: str, overrides: Sequence[str], out: pathlib.Path, choice: Choice = Choice()
) -> list[Cell]:
    """Return the cells of a study, the cheap ones first.

    An override counts for every cell whose stages it has an effect on.

    Args:
      config: a config file with its argument, such as "configs/study.py:model=2b". The file
        states PARADIGMS, SAMPLES and SEEDS beside its `get_config`.
      overrides: arguments such as "--config.sft.batch_size=16".
      out: the folder of the study.
      choice: the cells.

    Raises:
      UserError: the file is no study, or a cell's config has a mistake.
    """
    _, file = command.load(config)
    lists = {}
    for name in ("paradigms", "samples", "seeds"):
        lists[name] = list(getattr(choice, name) or getattr(file, name.upper(), ()))
        if not lists[name]:
            raise UserError(
                f"--config={config}: it states no {name.upper()}; expected a config of a study, "
                "such as configs/study.py"
            )
        if len(set(lists[name])) < len(lists[name]):
            raise UserError(f"--{name}={','.join(map(str, lists[name]))}: expected each once")
    if min(lists["samples"]) < ACTIVATION_SHARE or min(lists["seeds"]) < 0:
        raise UserError(f"expected --samples of {ACTIVATION_SHARE} or more, --seeds of 0 or more")
    for override in overrides:
        if (key := _key(override)) in _OF_A_CELL:
            raise UserError(
                f"--config.{key}: differs between the cells of a study; --paradigms, --samples and "
                "--seeds choose them"
            )
    own = {name: _of_paradigm(config, name, overrides) for name in lists["paradigms"]}
    for override in overrides:
        if all(override not in arguments for _, arguments in own.values()):
            settings, _ = next(iter(own.values()))
            reason = effects.of_other_stages(settings, _key(override))
            raise UserError(f"{override}: no effect in any cell: {reason}")
    return [
        _cell((paradigm, samples, seed), *own[paradigm], out)
        for samples in sorted(lists["samples"])
        for seed in lists["seeds"]
        for paradigm in own
    ]


def leader(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """Return the first cell whose SFT is that of a `reason_rft` cell; None if that is its own."""
    if len(cell.config.stages) < 2:
        return None
    alike = [other for other in cells if _of_sft(other.config) == _of_sft(cell.config)]
    return None if alike[0].folder == cell.folder else alike[0]


def _of_sft(config: Config) -> dict[str, Any]:
    """Return the settings on which the first stage of a run with two stages depends."""
    values = plain(config)
    values["data"] = {**values["data"], "samples": None}  # SFT has the first ones in any case
    return {**values, "grpo": None, "sampling": None}


def _cell(
    which: tuple[str, int, int], config: Config, arguments: Sequence[str], out: pathlib.Path
) -> Cell:
    """Return a cell whose paradigm has a config, which the arguments come to."""
    paradigm, samples, seed = which
    own: dict[str, Any] = {"seed": seed, "data.samples": samples}
    if len(config.stages) > 1:
        most = min(config.data.activation_samples, samples // ACTIVATION_SHARE)
        own["data.activation_samples"] = most
    folder = out / config.task / f"{paradigm}-{samples}-{seed}"
    told = (*arguments, *(f"--config.{key}={value}" for key, value in own.items()))
    return Cell(paradigm, samples, seed, folder, told, replaced(config, own))


def _of_paradigm(
    config: str, paradigm: str, overrides: Sequence[str]
) -> tuple[Config, tuple[str, ...]]:
    """Return a paradigm's settings, and the arguments that have an effect on its stages.

    Raises:
      UserError: the settings have a mistake.
    """
    file, _, argument = config.partition(":")
    choices = ",".join(filter(None, (argument, f"paradigm={paradigm}")))
    first = f"--config={file}:{choices}"
    untouched, _ = command.parse([first])
    kept = [one for one in overrides if not effects.of_other_stages(untouched, _key(one))]
    if len(kept) < len(overrides):
        left = " ".join(one for one in overrides if one not in kept)
        say(f"{paradigm}: no effect in its stages, so left out: {left}")
    settings, _ = command.parse([first, *kept])
    return settings, (first, *kept)


def _key(override: str) -> str:
    return override.partition("=")[0].removeprefix("--config.")
