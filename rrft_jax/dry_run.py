"""A dry run: a run's config, model and data are checked and told; nothing is written.

    python -m rrft_jax.main --dry_run --config=configs/grpo.py

The data is read, the first samples are measured, and the run's rewards score the first targets. The
headers of the weights are read, but no weight. Nothing is compiled. So the memory is a lower bound:
the arrays that lie on a device whatever the compiler does, in the largest batch of the first
samples. `python -m rrft_jax.plan` compiles, and measures the compiler's own work space too.
"""

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Sequence

from rrft_jax.data.batch import Batch
from rrft_jax.data.loader import Loader
from rrft_jax.data.samples import Source
from rrft_jax.data.shapes import Shape
from rrft_jax.data.show import lines
from rrft_jax.data.show.facts import facts
from rrft_jax.data.stages import num_samples, num_steps, stage_loader
from rrft_jax.errors import UserError
from rrft_jax.hf.weights import Weights
from rrft_jax.models import VLM
from rrft_jax.monitoring import waiting
from rrft_jax.parallel import devices, distributed
from rrft_jax.parallel.devices import GIB
from rrft_jax.plan import programs
from rrft_jax.prepare import Checked, beginning, check, weights_of
from rrft_jax.settings import STAGES, Config
from rrft_jax.workdir import agreed, saved_steps

_LOOKED_AT = 64  # samples among which the first usable one is looked for


def dry_run(config: Config, workdir: pathlib.Path, branch_from: str | None = None) -> None:
    """Check a run and print what it would do; the arguments are those of `prepare`.

    Raises:
      UserError: the run has a mistake that `prepare` would find, or it can't fit its devices.
    """
    point = distributed.on_host0(lambda: beginning(config, workdir, branch_from))
    checked = check(config, point)
    folder = distributed.on_host0(lambda: _folder(config, workdir))
    if point:
        _tell([f"begins at {point}"])
    with waiting(f"reading the headers of {checked.folder}"):
        Weights(checked.folder, checked.sizes)
    model = programs.make_model(config, checked.sizes, checked.mesh)
    _tell([f"attention: {model.kernels.form}"])
    too_large = ""
    for stage in config.stages:
        sources = checked.data.training[stage]
        with waiting(f"{stage}: measuring the first samples"):
            loader = stage_loader(config, stage, sources, checked.processor, checked.mesh)
        with contextlib.closing(loader):
            _tell(_training(config, stage, sources, loader))
            needed = Needed.of(config, model, stage, loader.largest)
            _tell([f"{stage}: {needed.text}"])
            _tell(_first_prompt(config, stage, loader, checked))
        too_large = too_large or (f"{stage}: {needed.text}" if needed.fits is False else "")
    for split, sources in checked.data.splits.items():
        _tell([f"eval: {split}, {num_samples(sources):,} samples"])
    if too_large:
        raise UserError(
            f"{too_large}; look for settings that fit by python -m rrft_jax.plan --search"
        )
    _tell([f"dry run: no mistake found, nothing written; {folder}"])


@dataclasses.dataclass(frozen=True)
class Needed:
    """The bytes that a stage needs on a device at least, by their role, and those that it has."""

    phase: str  # the part of a step that needs most
    pieces: dict[str, int]
    capacity: float | None  # None if it isn't known

    @classmethod
    def of(cls, config: Config, model: VLM, stage: str, shape: Shape) -> "Needed":
        """Return the need of a stage whose largest batch has this shape."""
        phases = programs.least_bytes(config, model, stage, shape)
        phase = max(phases, key=lambda name: sum(phases[name].values()))
        limits = devices.limits(model.mesh.devices.flat[0])
        return cls(phase, phases[phase], limits and limits.memory)

    @property
    def fits(self) -> bool | None:
        """False if it is too much; True if it may fit; None if the device isn't known."""
        return None if self.capacity is None else sum(self.pieces.values()) <= self.capacity

    @property
    def text(self) -> str:
        """The need in words."""
        each = ", ".join(f"{name} {size / GIB:.3g}" for name, size in self.pieces.items() if size)
        total = f"{sum(self.pieces.values()) / GIB:.3g} GiB"
        has = "" if self.capacity is None else f", of {self.capacity / GIB:.3g}"
        return f"at least {total} on each device{has}, in its {self.phase} ({each})"


def _training(
    config: Config, stage: str, sources: Sequence[Source], loader: Loader
) -> Iterator[str]:
    section, samples = config.stage(stage), num_samples(sources)
    steps = num_steps(section, samples)
    epochs = steps * section.batch_size / samples
    yield (
        f"{stage}: {steps:,} steps of {section.batch_size} prompts, {epochs:.3g} epochs of "
        f"{samples:,} samples"
    )
    for line in loader.description():
        yield f"{stage}: {line}"


def _first_prompt(config: Config, stage: str, loader: Loader, checked: Checked) -> Iterator[str]:
    samples = itertools.islice(loader.samples(), _LOOKED_AT)
    batch = next((sample for sample in samples if isinstance(sample, Batch)), None)
    if batch is None:
        raise UserError(f"{stage}: none of the first {_LOOKED_AT} samples can be used")
    head, *tokens = lines(batch, 0, checked.processor)
    yield f"{stage}: the first prompt as the model sees it"
    about = facts(config, stage, checked.processor.prompt_end, batch.sources[0], batch.examples[0])
    yield from (head, *about, *tokens)


def _folder(config: Config, workdir: pathlib.Path) -> str:
    """Return what the run would find in its folder.

    Raises:
      UserError: the folder holds another run, or can't hold a run.
    """
    agreed(config, workdir, weights_of(config.model))
    if not (workdir / "config.json").exists():
        return f"{workdir} is free"
    done = [
        f"{stage} after step {steps[-1]}" for stage, steps in saved_steps(workdir, STAGES).items()
    ]
    return f"{workdir} holds this run, which resumes: {', '.join(done) or 'no step is saved'}"


def _tell(told: Iterator[str] | Sequence[str]) -> None:
    """Print lines in the first process."""
    for line in told:
        if distributed.is_host0():
            print(line, flush=True)
