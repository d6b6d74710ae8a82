"""Checkpoints of a stage, by orbax: parameters, optimizer, step, position of the data loader.

Orbax writes a checkpoint as a whole or not at all. But a copy of a run's folder that was cut off
may hold half of a checkpoint. So each checkpoint has a list of its files' sizes, which is written
last. A checkpoint that lacks some of these files, or can't be read, is damaged and left out: the
stage continues from the newest complete checkpoint.
"""

import json
import pathlib
from collections.abc import Callable, Sequence, Set
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from rrft_jax.errors import UserError
from rrft_jax.monitoring import say
from rrft_jax.parallel import distributed
from rrft_jax.training.state import TrainState
from rrft_jax.workdir import write_json

_SIZES = "sizes.json"  # in a checkpoint's folder: the size in bytes of each of its files


class Damaged(Exception):
    """A checkpoint is not complete; the message says why."""


class Checkpoints:
    """The checkpoints of one stage: the newest two and the best; damaged ones are ignored."""

    def __init__(self, folder: pathlib.Path):
        """Open the folder, which `stage_folder` names; make it if it is missing."""
        self._damaged: set[int] = set()
        self._policy = _NewestAndBest(self._damaged)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            enable_async_checkpointing=False,
        )
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        # Only the first process lists them: a shared disk may show other machines an older state.
        self._steps: list[int] = distributed.on_host0(lambda: sorted(self._manager.all_steps()))

    @property
    def latest(self) -> int | None:
        """The last saved step, None before the first; after `restore`, a complete one."""
        return max(set(self._steps) - self._damaged, default=None)

    def save(
        self, step: int, state: TrainState, loader: dict[str, Any], best: int | None = None
    ) -> None:
        """Save the state after `step` steps; do nothing if that step is saved already.

        `best` is the step whose checkpoint is kept beside the newest two.
        """
        if self.latest == step:
            return
        self._policy.best = best
        if step in self._manager.all_steps():  # a damaged one
            self._manager.delete(step)
        self._damaged.discard(step)
        content = ocp.args.Composite(
            state=ocp.args.StandardSave(state), loader=ocp.args.JsonSave(loader)
        )
        self._manager.save(step, args=content, force=True)
        self._manager.wait_until_finished()
        if distributed.is_host0():
            folder = self._folder / str(step)
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
            write_json(folder / _SIZES, sizes)
        self._steps.append(step)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Return the newest complete (state, loader position), each array laid out as in `like`.

        Newer checkpoints that are damaged are named on the console. The next save deletes them.
        The arrays of `like` are freed first, so that a large state is in memory only once.

        Raises:
          UserError: the checkpoint is of another model or optimizer, or none is complete.
        """
        abstract = _freed(like)

        def read(folder: pathlib.Path) -> tuple[TrainState, dict[str, Any]]:
            position = ocp.JsonCheckpointHandler().restore(folder / "loader")
            content = ocp.args.StandardRestore(abstract)
            state = ocp.StandardCheckpointHandler().restore(folder / "state", args=content)
            return state, position

        while (step := self.latest) is not None:
            try:
                return self._read(step, read, abstract)
            except Damaged as error:
                say(f"{self._folder}: step {step} is incomplete and is passed over: {error}")
                self._damaged.add(step)
        raise UserError(
            f"{self._folder}: all of its checkpoints are incomplete (steps "
            f"{', '.join(map(str, self._steps))}); copy one again, or delete that folder to start "
            "the stage again"
        )

    def restore_params(self, step: int, like: dict) -> dict:
        """Return only the parameters that were saved after `step` steps, laid out as `like`.

        The arrays of `like` are freed first.

        Raises:
          Damaged: that checkpoint is not complete.
        """
        abstract = {"params": _freed(like)}
        content = ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )

        def read(folder: pathlib.Path) -> dict:
            return ocp.PyTreeCheckpointHandler().restore(folder / "state", args=content)["params"]

        return self._read(step, read)

    def _read(
        self, step: int, read: Callable[[pathlib.Path], Any], like: TrainState | None = None
    ) -> Any:
        """Return the result of `read` for a step's folder; all processes return or raise alike.

        This does not use orbax's manager: there the other processes would wait for a process that
        has found damage.

        Raises:
          Damaged: the checkpoint is not complete.
          UserError: the checkpoint is complete, but its arrays differ from those of `like`.
        """
        if damage := distributed.on_host0(lambda: self._damage(step, like)):
            raise Damaged(damage)
        restored = damage = None
        try:
            restored = read(epath.Path(self._folder / str(step)))
        except (jax.errors.JaxRuntimeError, MemoryError):
            raise  # too little memory, which is no damage
        except Exception as error:  # orbax has no exception class of its own
            damage = _short(error)
        damages = distributed.gather(damage)
        if any(damages):
            raise Damaged(next(filter(None, damages)))
        return restored

    def _damage(self, step: int, like: TrainState | None) -> str | None:
        """Return the damage that is visible without reading arrays, in words; None if none is."""
        folder = self._folder / str(step)
        try:
            sizes = json.loads((folder / _SIZES).read_text())
            sizes = {name: int(size) for name, size in sizes.items()}
        except FileNotFoundError:  # an older release, or a copy without it: reading will tell
            sizes = {}
        except (OSError, ValueError, TypeError, AttributeError):
            return f"{_SIZES} can't be read"
        for name, size in sizes.items():
            try:
                found = (folder / name).stat().st_size
            except OSError:
                return f"{name} is missing"
            if found != size:
                return f"{name} has {found:,} bytes of {size:,}"
        try:
            saved = ocp.StandardCheckpointHandler().metadata(folder / "state").tree
            saved = _shapes(saved)
        except Exception as error:
            return f"state/_METADATA can't be read: {_short(error)}"
        if like is None:
            return None
        wanted = _shapes(ocp.tree.serialize_tree(like, keep_empty_nodes=True))
        for name in sorted(saved.keys() | wanted.keys()):
            there, here = saved.get(name, "missing"), wanted.get(name, "missing")
            if there != here:
                raise UserError(
                    f"{self._folder}: step {step} doesn't fit this run ({name} is {there} there "
                    f"and {here} here); give another --workdir"
                )
        return None

    def close(self) -> None:
        self._manager.close()


class _NewestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """The rule that says which checkpoints are kept when another one is saved."""

    def __init__(self, damaged: Set[int]):
        self.best: int | None = None
        self._damaged = damaged

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        whole = [saved.step for saved in checkpoints if saved.step not in self._damaged]
        kept = {self.best, *whole[-2:]} - self._damaged
        return [saved.step in kept for saved in checkpoints]


def _freed(tree: Any) -> Any:
    """Delete the arrays of a tree; return their shapes, dtypes and shardings."""
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )
    for array in jax.tree.leaves(tree):
        array.delete()
    return abstract


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in ocp.tree.to_flat_dict(tree, sep="/").items()}


def _short(error: BaseException) -> str:
    return " ".join(str(error.__cause__ or error).split())[:200]
