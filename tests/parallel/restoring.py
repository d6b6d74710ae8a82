"""Two processes, of which one can't read its part of a checkpoint; run by test_processes."""

import pathlib
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rrft_jax.parallel import distributed
from rrft_jax.training.checkpoints import Checkpoints
from rrft_jax.training.state import TrainState


def main(coordinator: str, process_id: int, folder: pathlib.Path) -> None:
    distributed.initialize(coordinator, 2, process_id)
    mesh = Mesh(np.array(jax.devices()), "x")

    def state(step: int) -> TrainState:
        def array(*shape: int) -> jax.Array:
            sharding = NamedSharding(mesh, PartitionSpec(*["x"][: len(shape)]))
            values = np.random.default_rng(step).normal(size=shape).astype(np.float32)
            return jax.make_array_from_callback(shape, sharding, lambda index: values[index])

        return TrainState(array(), {"a": array(4000, 8)}, (), array())

    with distributed.leaving_together():
        checkpoints = Checkpoints(folder)
        for step in (1, 2):
            checkpoints.save(step, state(step), {"batches": step})
        if distributed.is_host0():
            for file in (folder / "2" / "state" / "ocdbt.process_1" / "d").iterdir():
                file.write_bytes(bytes(file.stat().st_size))
        distributed.gather(None)
        checkpoints = Checkpoints(folder)
        restored, position = checkpoints.restore(state(0))
        same = [
            np.array_equal(x.addressable_data(0), y.addressable_data(0))
            for x, y in zip(jax.tree.leaves(restored), jax.tree.leaves(state(1)), strict=True)
        ]
        checkpoints.save(2, restored, position)  # its step comes again
        print(f"after {position} same {all(same)} kept {sorted(x.name for x in folder.iterdir())}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]))
