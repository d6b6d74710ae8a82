"""Says what a config needs and costs on devices, before any are rented. Nothing is run.

    python -m rrft_jax.plan --config=configs/grpo.py:model=7b --topology=v5e:4x8 [--search] [--json]
        [--prompt-tokens=1024] [--patches=2448] [--target-tokens=512] [--config.KEY=VALUE ...]

The programs of the config's stages, those that a run jits, are compiled for the mesh of the config:

  sft        the update of SFT
  prefill    vision tower and prompts
  layer      the sampler's weights gathered, a layer at a time
  ends       those of its embedding and head
  grow       a longer cache
  decode     the sampler's loop, in its longest cache, to the last token
  reference  log-probabilities under the frozen policy
  update     GRPO's update

For a TPU slice that takes `libtpu` and no TPU: `--topology` is v4:, v5e:, v5p:, v6e: or tpu7x: and
the chips along each axis. Without it they are compiled for the devices of this machine, GPUs
included; for GPUs that aren't here nothing can be said.

For each the report has what lies on a device at once, by kind, with what other parts of the run
keep there meanwhile, beside what the device has; operations, bytes moved and bytes sent by
collectives, read off the compiled program with its loops counted; and the time that the slowest of
the three takes at the device's peak, which no run can beat. Then whether it all fits, and what to
change first.

Batches are assumed to be of one size: prompts of `--prompt-tokens` with a picture of
`data.max_pixels` (or `--patches` in all), targets of `--target-tokens`, and completions that are
all as long as they may be.

`--search` looks among meshes and dtypes of Adam's moments and of the reference for what fits, a
row a device at a time, and prints what it tried: what fits, the fastest first, then what doesn't
and by how much. It compiles no more than `--tries` of them, and none that can't fit by its weights
and caches alone.

The exit code is 0 where it fits, or that isn't known, and 1 where it doesn't or something is wrong.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import jax

from rrft_jax import command
from rrft_jax.data.shapes import Shape
from rrft_jax.data.stages import model_folder
from rrft_jax.errors import UserError
from rrft_jax.hf.pretrained import read_config
from rrft_jax.models.config import VLMConfig
from rrft_jax.models.families import RELEASED
from rrft_jax.parallel import devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import report, search
from rrft_jax.settings import Config


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
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
    """The config, and what else the command line says."""
    parser = command.Parser(
        prog="python -m rrft_jax.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--topology", help="a TPU slice such as v5e:2x4; default: this machine")
    parser.add_argument("--search", action="store_true", help="look for settings that fit")
    parser.add_argument("--tries", type=int, default=4, help="of --search; default: %(default)s")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prompt-tokens", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--patches", type=int, help="default: those of data.max_pixels")
    parser.add_argument("--target-tokens", type=int, default=512, help="default: %(default)s")
    args, rest = parser.parse_known_args(argv)
    return command.parse(rest)[0], args


def run(config: Config, args: argparse.Namespace) -> list[tuple[dict, report.Plan]]:
    """What was changed and the plan of it: one of the config as it is, or those of the search."""
    if not config.stages:
        raise UserError("--config.stages=: expected a stage of training, sft or grpo")
    sizes, found = model_sizes(config), find_devices(args.topology)
    shape = Shape(
        args.patches or picture_patches(config, sizes), args.prompt_tokens, args.target_tokens
    )
    if shape.patches > shape.prompt * sizes.vision.merge_size**2:
        raise UserError(
            f"--prompt-tokens={shape.prompt}: expected {shape.patches // 4} or more, which its "
            "picture has (data.max_pixels, --patches)"
        )
    limits = devices.limits(found[0])
    if args.search:
        return search.search(config, sizes, found, shape, limits, args.tries, _say)
    mesh = make_mesh(**config.mesh.axes, devices=found)
    return [({}, report.make_plan(config, sizes, mesh, shape, limits, say=_say))]


def find_devices(topology: str | None) -> Sequence[jax.Device]:
    """Those of a TPU slice, or of this machine.

    Raises:
      UserError: no such slice.
    """
    if topology is None:
        return jax.devices()
    if topology.partition(":")[0].lower() in GPUS:
        raise UserError(
            f"--topology={topology}: a GPU can't be compiled for without one; run this on a "
            "machine that has it, without --topology"
        )
    return devices.slice_devices(topology)


GPUS = ("gpu", "a100", "h100", "h200", "b200", "l4", "a10", "v100", "t4", "rtx")


def model_sizes(config: Config) -> VLMConfig:
    """Of the config's model; a released one needn't be here."""
    if config.model.name in RELEASED and not config.model.path:
        return RELEASED[config.model.name]
    return read_config(model_folder(config.model))[0]


def picture_patches(config: Config, sizes: VLMConfig) -> int:
    """Of a picture of as many pixels as the config allows."""
    vision = sizes.vision
    visual = config.data.max_pixels // (vision.patch_size * vision.merge_size) ** 2
    return visual * vision.merge_size**2


def _say(text: str) -> None:
    """Beside the result, which goes to stdout alone."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
