"""Write a checkpoint of a run as a Hugging Face folder.

    python -m rrft_jax.export RUN [--stage=sft] [--step=N] [--out=DIR]

The command takes the newest checkpoint of the last stage, or the one of `--stage` and `--step`. It
writes the checkpoint to RUN/export-STAGE, RUN/export-STAGE-N or `--out`, in the same form as
RUN/export, the last step of a finished run. All files but the weights come from the model's folder
from which the run started.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rrft_jax import command, fields
from rrft_jax.data.stages import model_folder
from rrft_jax.errors import UserError
from rrft_jax.hf import adapters, kinds, save_pretrained, storage
from rrft_jax.hf.pretrained import read_config
from rrft_jax.models import VLM, table
from rrft_jax.prepare import weights_of
from rrft_jax.prog import prog
from rrft_jax.settings import LoRASettings, ModelSettings
from rrft_jax.training import tuning
from rrft_jax.training.checkpoints import Checkpoints, Damaged
from rrft_jax.workdir import EXPORT, read, saved_steps, stage_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    command.quieten()
    jax.config.update("jax_platforms", "cpu")  # a run may be using the accelerators
    try:
        args = _read(sys.argv[1:] if argv is None else argv)
        written, stage, step = export(args.run.expanduser(), args.stage, args.step, args.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"export: {' and '.join(map(str, written))} ({stage}, after step {step})")
    return 0


def export(
    run: pathlib.Path,
    stage: str | None = None,
    step: int | None = None,
    out: pathlib.Path | None = None,
) -> tuple[list[pathlib.Path], str, int]:
    """Write one checkpoint of a run as a Hugging Face folder, without compiling a model.

    Args:
      run: the folder of the run.
      stage: "sft" or "grpo"; None takes the last stage that has a checkpoint.
      step: the step after which the checkpoint was saved; None takes the newest.
      out: the folder to write; None takes a folder in `run` named after the stage and the step, if
        one is given.

    Returns:
      (the folders that `write` returns, the stage, the step).

    Raises:
      UserError: the run or the checkpoint does not exist, the run's first model has changed, or
        `out` would overwrite that model, its adapter or a run, or stand in an adapter's folder.
    """
    begun = read(run)
    saved = saved_steps(run, begun["stages"])
    if not saved:
        raise UserError(
            f"{run}: this run has no checkpoint yet; let it train until it has saved one"
        )
    listed = "; ".join(f"{name}: {', '.join(map(str, steps))}" for name, steps in saved.items())
    chosen = stage or list(saved)[-1]
    if chosen not in saved:
        raise UserError(f"{run}: no checkpoint of the stage {chosen!r}; it has {listed}")
    if step is not None and step not in saved[chosen]:
        raise UserError(f"{run}: no checkpoint of {chosen} after step {step}; it has {listed}")
    if out is None:
        out = run / f"{EXPORT}-{chosen}{'' if step is None else f'-{step}'}"
    step = saved[chosen][-1] if step is None else step

    settings = fields.build(ModelSettings, begun["model"], "model.")
    adapted = fields.build(LoRASettings, begun.get("lora", {}), "lora.")
    try:
        source = model_folder(settings)
        sizes, _ = read_config(source)
        weights = weights_of(settings)
    except UserError as error:
        raise UserError(
            f"{run}: an export takes its config and tokenizer from the model that the run started "
            f"from, which cannot be read: {error}"
        ) from None
    if begun.get("weights") not in (None, weights):
        raise UserError(
            f"{source}: this is not the model that {run} started from, or its files have changed; "
            "restore it, because its config and tokenizer belong to the weights"
        )
    _check_out(out, [source, *([kinds.adapter(settings.adapter)] if settings.adapter else [])])
    model = VLM(
        sizes,
        dtype=jnp.dtype(settings.compute_dtype),
        lora=tuning.lora(adapted, sizes),
        source=str(source),
    )
    like = jax.tree.map(
        lambda shape: jnp.zeros(shape, settings.dtype),
        tuning.trained_shapes(model),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    checkpoints = Checkpoints(stage_folder(run, chosen))
    try:
        params = checkpoints.restore_params(step, like)
    except Damaged as error:
        raise UserError(
            f"{run}: the checkpoint of {chosen} after step {step} is incomplete ({error}); give "
            f"another --step; the run has {listed}"
        ) from None
    finally:
        checkpoints.close()
    return write(out, model, params), chosen, step


def _check_out(out: pathlib.Path, inputs: Sequence[storage.Path]) -> None:
    """Refuse a folder whose content would be lost, or would not fit beside an export.

    `inputs` are the folders that the run started from.
    """
    folder = out.expanduser()
    written = folder.resolve(), _beside(folder).resolve()
    for begun in inputs:
        if not storage.is_url(begun) and pathlib.Path(begun).resolve() in written:
            raise UserError(
                f"--out={out}: the run started from {begun}, which would be written over; give "
                "another folder"
            )
    if kinds.holds_run(folder):
        raise UserError(
            f"--out={out}: this is the folder of a run, and its config.json would be lost; give "
            "another folder"
        )
    if (folder / kinds.ADAPTER).exists():
        raise UserError(
            f"--out={out}: this folder holds a PEFT adapter, which a reader would apply to the "
            "export; give another folder"
        )


def _beside(out: pathlib.Path) -> pathlib.Path:
    """Return the folder of the adapter beside an export."""
    named = out.resolve() if out.name in ("", "..") else out
    return named.with_name(f"{named.name}-adapter")


def write(out: pathlib.Path, model: VLM, params: dict) -> list[pathlib.Path]:
    """Write weights of a run: a Hugging Face folder, and beside it a PEFT folder of their adapter.

    All processes must call this, and the first one writes. Returns the folders.

    Args:
      out: the folder; that of an adapter has the same name with "-adapter" behind it.
      model: the model.
      params: its parameters; without an adapter there is no second folder.
    """
    save_pretrained(out, model, params)
    own = params.get("adapter")
    if not own:
        return [out]
    beside = _beside(out)
    adapters.write(beside, model.config, model.lora, table.flatten(own), model.source)
    return [out, beside]


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.Parser(
        prog=prog("rrft_jax.export"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--stage", help="sft or grpo; default: the last one with a checkpoint")
    parser.add_argument("--step", type=int, help="default: the newest")
    parser.add_argument("--out", type=pathlib.Path, help="default: RUN/export-STAGE[-STEP]")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
