"""Preparation of a run: model, data and folder are opened and checked before any compilation."""

import dataclasses
import pathlib
from typing import NamedTuple

import jax

from rrft_jax import branch
from rrft_jax.data import Processor
from rrft_jax.data.dry_call import check_rewards
from rrft_jax.data.sources import Data
from rrft_jax.data.stages import model_folder, num_samples, num_steps, open_processor
from rrft_jax.errors import UserError
from rrft_jax.hf import adapters, kinds, load_pretrained, storage
from rrft_jax.hf.pretrained import read_config
from rrft_jax.hf.weights import file_sizes
from rrft_jax.models import VLM, layout
from rrft_jax.models.config import VLMConfig
from rrft_jax.monitoring import compilations, say, trackers, waiting
from rrft_jax.monitoring.span import check_span, read_span
from rrft_jax.parallel import distributed
from rrft_jax.parallel.mesh import batch_shards, make_mesh, nearest
from rrft_jax.settings import Config, ModelSettings
from rrft_jax.training import state as states
from rrft_jax.training import tuning
from rrft_jax.workdir import claim, fingerprint, other_words


class Prepared(NamedTuple):
    """A run before its first step.

    Attributes:
      config: the config of the run.
      model: the model, with its mesh.
      params: the weights to start from.
      processor: the processor of the checkpoint.
      data: the samples of each stage, and the splits to evaluate.
    """

    config: Config
    model: VLM
    params: dict
    processor: Processor
    data: Data


class Checked(NamedTuple):
    """A config whose model and data were opened, before a weight is read.

    Attributes:
      mesh: the devices.
      folder: the folder of the checkpoint to start from.
      sizes: the sizes of its model.
      data: the samples of each stage, and the splits to evaluate.
      processor: the processor of the checkpoint.
    """

    mesh: jax.sharding.Mesh
    folder: storage.Path
    sizes: VLMConfig
    data: Data
    processor: Processor


def check(config: Config, point: branch.Point | None = None) -> Checked:
    """Open the model's config and the data, and check that they go together. Write nothing.

    Args:
      config: the config of the run.
      point: the checkpoint that the run begins at, if it is a new branch.

    Raises:
      UserError: the config, the model, the data and the devices don't fit together.
    """
    trackers.check(config.trackers)
    mesh = make_mesh(**config.mesh.axes)
    check_batches(config, mesh)
    folder = model_folder(config.model)
    sizes, _ = read_config(folder)
    layout.check(sizes, mesh)
    if line := tuning.check(config, sizes):
        say(line)
    with waiting("reading the data"):
        data = Data.open(config)
    _check_best_split(config, data)
    steps = {
        name: num_steps(config.stage(name), num_samples(data.training[name]))
        for name in config.stages
    }
    check_span(read_span(config.profile, config.stages), steps)
    if point:
        distributed.on_host0(lambda: branch.check_steps(point, steps))
    with waiting("reading the tokenizer"):
        processor = open_processor(config.model, config.data)
    with waiting("scoring the first samples: the processes of the rewards start"):
        check_rewards(config, data, processor.prompt_end)
    if not (config.data.path or config.data.source or config.data.mixture):
        say("data: the samples are drawn; data.path or data.source names a data set instead")
    if line := other_words(config):
        say(line)
    for line in layout.summary(sizes, mesh):
        say(line)
    for line in layout.every_parameter(sizes, mesh) if config.mesh.show else ():
        say(line)
    return Checked(mesh, folder, sizes, data, processor)


def beginning(
    config: Config, workdir: pathlib.Path, branch_from: str | None
) -> branch.Point | None:
    """Return the checkpoint that a new run begins at; None if it has begun, or is no branch.

    Args:
      config: the config of the run.
      workdir: the folder of the run.
      branch_from: the argument of `--branch_from`.

    Raises:
      UserError: there is no such checkpoint, or the run can't begin there or began elsewhere.
    """
    if branch_from is None:
        return None
    if (workdir / "config.json").exists():
        branch.check_begun(branch_from, workdir)
        return None
    read_config(model_folder(config.model))  # first, because its errors tell what a folder is
    return branch.find(branch_from, config, weights_of(config.model))


def prepare(config: Config, workdir: pathlib.Path, branch_from: str | None = None) -> Prepared:
    """Open the model and the data, and claim `workdir` for this run.

    `workdir` is claimed last, so that a mistake leaves no folder behind.

    Args:
      config: the config of the run.
      workdir: the folder of the run.
      branch_from: the checkpoint of another run that a new run begins at, as in `branch.py`.

    Raises:
      UserError: the config, the model, the data and the devices don't fit together, or the folder
        holds another run.
    """
    compilations.listen()
    point = distributed.on_host0(lambda: beginning(config, workdir, branch_from))
    mesh, folder, _, data, processor = check(config, point)
    with waiting(f"reading the weights of {folder}"):
        model, params = load_pretrained(
            folder,
            tuning.dtype(config),
            compute_dtype=config.model.compute_dtype,
            mesh=mesh,
            adapter="" if config.lora.rank else config.model.adapter,
        )
    model = dataclasses.replace(
        model,
        attention=config.model.attention,
        remat=config.model.remat,
        logit_chunk=config.model.logit_chunk,
    )
    model, params = tuning.begin(config, model, params)
    say(f"attention: {model.kernels.form}")
    if line := tuning.summary(params):
        say(line)
    for stage in config.stages:
        states.split(params, config.stage(stage).freeze)
    _warn_about_size(config, params)
    with waiting(f"comparing the weights with those of {workdir}"):
        distributed.on_host0(lambda: _claim(config, workdir, point))
    return Prepared(config, model, params, processor, data)


def _claim(config: Config, workdir: pathlib.Path, point: branch.Point | None) -> None:
    if point:
        branch.start(point, workdir)
        say(f"{workdir} begins at {point}")
    claim(config, workdir, weights_of(config.model), point and str(point))
    branch.finish(workdir)


def weights_of(model: ModelSettings) -> str:
    """Return the fingerprint of the weights that a run starts from, its adapter included."""
    folder = model_folder(model)
    found = fingerprint(folder, file_sizes(folder))
    if not model.adapter:
        return found
    adapter = kinds.adapter(model.adapter)
    return f"{found}+{fingerprint(adapter, adapters.file_sizes(adapter))}"


def _warn_about_size(config: Config, params: dict) -> None:
    size = sum(x.size for x in jax.tree.leaves(params))
    if config.model.name == "tiny" and config.stages and size > 50e6:
        say(
            f"warning: a model of {size:,} parameters under the settings of the tiny one (learning "
            "rates, lengths, dropped thoughts); those of the paper are --config=FILE:model=2b"
        )


def check_batches(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Check that every device gets as many rows of a batch.

    Raises:
      UserError: the batch of a stage isn't a multiple of the devices and of its parts.
    """
    parts = batch_shards(mesh)
    for stage in config.stages:
        section = config.stage(stage)
        multiple = parts * section.mini_batches * (section.micro_batches or 1)
        if section.batch_size % multiple:
            near = nearest(
                section.batch_size,
                section.batch_size + multiple,
                lambda n: n % multiple == 0,  # noqa: B023
            )
            raise UserError(
                f"{stage}.batch_size={section.batch_size}: expected a multiple of {multiple} "
                f"(mesh.data x mesh.fsdp x mini_batches x micro_batches), such as {near}"
            )


def _check_best_split(config: Config, data: Data) -> None:
    """Raise UserError unless `best_split` is an evaluated split or empty (the first split)."""
    suffixes = ("", "-sampled") if config.eval.sampled else ("",)
    names = [split + suffix for split in data.splits for suffix in suffixes]
    if config.best_split and config.best_split not in names:
        raise UserError(
            f"--config.best_split={config.best_split}: expected one of {', '.join(names) or 'none'}"
        )
