"""Checkpoints of a stage, by orbax: parameters, optimizer, step, position of the data loader."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from rrft_jax.errors import UserError
from rrft_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one stage. The newest two are kept; one that a crash tore is ignored."""

    def __init__(self, folder: pathlib.Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
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
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        for array in jax.tree.leaves(like):
            array.delete()
        content = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), loader=ocp.args.JsonRestore()
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

    def close(self) -> None:
        self._manager.close()
