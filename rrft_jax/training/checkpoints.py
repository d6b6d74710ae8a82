"""Checkpoints of a stage, by orbax: parameters, optimizer, step, position of the data loader."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from rrft_jax.errors import UserError
from rrft_jax.training.state import TrainState


def stage_folder(workdir: pathlib.Path, stage: str) -> pathlib.Path:
    """Where a run keeps the checkpoints of a stage, one folder a step."""
    return workdir / "checkpoints" / stage


class Checkpoints:
    """The checkpoints of one stage: the newest two, the best; one that a crash tore is ignored."""

    def __init__(self, folder: pathlib.Path, best: Callable[[], int | None] = lambda: None):
        """Opens the folder, made if missing.

        Args:
          folder: as `stage_folder` says.
          best: the step whose checkpoint is kept beside the newest, as far as it is known when
            another one is saved.
        """
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAndBest(best), enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The last step that is saved, None before the first."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, loader: dict[str, Any]) -> None:
        """Saves the state after `step` steps; does nothing where that step is saved already."""
        if self.latest == step:
            return
        content = ocp.args.Composite(
            state=ocp.args.StandardSave(state), loader=ocp.args.JsonSave(loader)
        )
        self._manager.save(step, args=content, force=True)
        self._manager.wait_until_finished()

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest (state, loader position), each array laid out as in `like`.

        The arrays of `like` are freed first: a large state is in memory once.

        Raises:
          UserError: the checkpoint is of another model or optimizer.
        """
        content = ocp.args.Composite(
            state=ocp.args.StandardRestore(_freed(like)), loader=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(self.latest, args=content)
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self._manager.directory}: step {self.latest} doesn't fit this run ({reason}); "
                "give another --workdir"
            ) from error
        return restored.state, restored.loader

    def restore_params(self, step: int, like: dict) -> dict:
        """The parameters alone that were saved after `step` steps, laid out as `like`.

        The arrays of `like` are freed first.
        """
        abstract = {"params": _freed(like)}
        content = ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
        restored = self._manager.restore(step, args=ocp.args.Composite(state=content))
        return restored.state["params"]

    def close(self) -> None:
        self._manager.close()


class _NewestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """Which checkpoints stay when another one is saved."""

    def __init__(self, best: Callable[[], int | None]):
        self._best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = {self._best(), *(saved.step for saved in checkpoints[-2:])}
        return [saved.step in kept for saved in checkpoints]


def _freed(tree: Any) -> Any:
    """What the arrays of a tree look like and where they lie; they themselves are deleted."""
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )
    for array in jax.tree.leaves(tree):
        array.delete()
    return abstract
