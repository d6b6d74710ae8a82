"""Report what a config needs and costs on devices, before any are rented. Nothing is run.

    python -m rrft_jax.plan --config=configs/grpo.py:model=7b --topology=v5e:4x8 [--search] [--json]
        [--prompt-tokens=1024] [--patches=2448] [--target-tokens=512] [--samples=N]
        [--config.KEY=VALUE ...]

The programs of the config's stages are compiled for the mesh of the config. They are the functions
that a run jits:

  sft        the update of SFT
  prefill    the vision tower and the prompts
  layer      the gathering of the sampler's weights, one layer at a time
  ends       the gathering of its other weights: embedding and head
  grow       the copy into a longer cache
  decode     the sampler's loop, in its longest cache, to the last token
  old        the log-probabilities under the policy that has sampled, if the loss needs them
  reference  the log-probabilities under the frozen policy
  update     the update of GRPO; it runs grpo.num_iterations x grpo.mini_batches times in a step

`--topology` names the devices, which needn't be here. A TPU slice is v4:, v5e:, v5p:, v6e: or
tpu7x:, followed by the chips along each axis. Compiling for it takes `libtpu`. GPUs are a100-40:,
a100-80:, h100:, h200:, b200: or gb200:, followed by the GPUs of a node (h200:8) or by the nodes and
the GPUs of each (h100:2x8). Compiling for them takes `pip install 'rrft_jax[plan-gpu]'`, but no
driver and no CUDA toolkit. Without `--topology`, the programs are compiled for the devices of this
machine.

The report begins with the verdict: does everything fit, by how much, and which setting to change
first for more room. The seconds of a step, the hours of an epoch and the seconds of compilation
follow. Then it has three parts for each program:

  memory     the bytes on a device by kind, with those that other parts of the run keep there
             meanwhile, and the memory of the device
  cost       operations, bytes moved, and bytes sent by collectives, read off the compiled program
             with its loops counted
  time       the seconds that the slowest of these three costs takes at the device's peak; no run
             is faster

All batches are assumed to have one size: prompts of `--prompt-tokens` with a picture of
`data.max_pixels` (or `--patches` in all), targets of `--target-tokens`, and completions of the
greatest length.

`--search` looks for settings that fit, with one row per device at a time. It tries meshes, and
dtypes of the weights, of Adam's moments and of the reference. It prints the settings that fit, the
fastest first, then the others with the bytes that they lack. It compiles at most `--tries`
candidates, and none whose weights and caches alone are too large.

The exit code is 0 if the config fits or the memory isn't known, and 1 if it doesn't fit or the
command fails.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

import jax

from rrft_jax import command
from rrft_jax.data import stages
from rrft_jax.data.places import TFDS
from rrft_jax.data.shapes import Shape
from rrft_jax.data.sources import Data
from rrft_jax.errors import UserError
from rrft_jax.hf.pretrained import read_config
from rrft_jax.models import layout
from rrft_jax.models.config import VLMConfig
from rrft_jax.models.families import RELEASED
from rrft_jax.parallel import devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import measure, report, search
from rrft_jax.prepare import check_batches
from rrft_jax.prog import prog
from rrft_jax.settings import Config
from rrft_jax.training import objectives


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    # XLA's errors are exceptions. Its log would add only that a compilation is slow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command.quieten()
    try:
        config, args = read(sys.argv[1:] if argv is None else argv)
        plans = run(config, args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        result = [{"changes": changes, **report.as_dict(plan)} for changes, plan in plans]
        print(json.dumps(result if args.search else result[0]))
    else:
        print(search.as_text(plans) if args.search else report.as_text(plans[0][1]))
    return int(all(plan.fits is False for _, plan in plans))


def read(argv: Sequence[str]) -> tuple[Config, argparse.Namespace]:
    """Return the config, and the other arguments of the command line."""
    parser = command.Parser(
        prog=prog("rrft_jax.plan"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--topology",
        help="a TPU slice such as v5e:2x4, or GPUs such as h200:8; default: this machine",
    )
    parser.add_argument("--search", action="store_true", help="look for settings that fit")
    parser.add_argument("--tries", type=int, default=4, help="of --search; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--prompt-tokens", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--patches", type=int, help="default: those of data.max_pixels")
    parser.add_argument("--target-tokens", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--samples", type=int, help="of an epoch; default: those of the data")
    args, rest = parser.parse_known_args(argv)
    for name, value in vars(args).items():
        if type(value) is int and value < 1:
            raise UserError(f"--{name.replace('_', '-')}={value}: expected 1 or more")
    config = command.parse(rest)[0]
    objectives.check(config.grpo)
    return config, args


def run(config: Config, args: argparse.Namespace) -> list[tuple[dict, measure.Plan]]:
    """Return (changes, plan) pairs: one without changes, or with --search one per candidate.

    Raises:
      UserError: the config has no stage, the devices aren't known, a run would refuse their mesh,
        or nothing can fit.
    """
    if not config.stages:
        raise UserError("--config.stages=: expected a stage of training, sft or grpo")
    sizes, found = model_sizes(config), find_devices(args.topology)
    shape = Shape(
        args.patches or picture_patches(config, sizes), args.prompt_tokens, args.target_tokens
    )
    of_token = sizes.vision.merge_size**2
    if shape.patches % of_token:
        raise UserError(
            f"--patches={shape.patches}: expected a multiple of {of_token}, because a visual token "
            "has so many"
        )
    if shape.patches > shape.prompt * of_token:
        raise UserError(
            f"--prompt-tokens={shape.prompt}: expected {shape.patches // of_token} or more, which "
            "its picture has (data.max_pixels, --patches)"
        )
    limits = devices.limits(found[0])
    samples = num_samples(config, args.samples)
    if args.search:
        plans = search.search(config, sizes, found, shape, limits, args.tries, _say)
    else:
        mesh = make_mesh(**config.mesh.axes, devices=found)
        check_batches(config, mesh)
        layout.check(sizes, mesh)
        plans = [({}, measure.make_plan(config, sizes, mesh, shape, limits, say=_say))]
    for _, plan in plans:
        plan.samples = samples
    return plans


def num_samples(config: Config, told: int | None) -> dict[str, int]:
    """Return stage -> number of its samples; no stage if the data isn't on this machine.

    Args:
      config: the config of a run.
      told: the number of samples of every stage; None counts those of the config's data.
    """
    if told is not None:
        return dict.fromkeys(config.stages, told)
    places = (config.data.path, config.data.source.removeprefix(TFDS), config.data.mixture)
    if any(place and not os.path.exists(place) for place in places):
        _say("the data isn't here; --samples=N tells the samples of an epoch")
        return {}
    training = Data.open(config).training
    return {stage: stages.num_samples(sources) for stage, sources in training.items()}


def find_devices(topology: str | None) -> Sequence[jax.Device]:
    """Return the devices of an absent slice or node, or those of this machine for None.

    Raises:
      UserError: there is no such slice or node, or no compiler for it.
    """
    return jax.devices() if topology is None else devices.absent_devices(topology)


def model_sizes(config: Config) -> VLMConfig:
    """Return the sizes of the config's model; a released model needn't be on the disk."""
    if config.model.name in RELEASED and not config.model.path:
        return RELEASED[config.model.name]
    return read_config(stages.model_folder(config.model))[0]


def picture_patches(config: Config, sizes: VLMConfig) -> int:
    """Return the number of patches of the largest picture that the config allows."""
    vision = sizes.vision
    visual = config.data.max_pixels // (vision.patch_size * vision.merge_size) ** 2
    return visual * vision.merge_size**2


def _say(text: str) -> None:
    """Print to stderr: stdout is for the result alone."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
