"""The GRPO step that the check measures: its config, its model with random weights, its batch.

Weights are made on the device, so nothing is read from a disk.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax import settings
from rrft_jax.accelerator import scale
from rrft_jax.accelerator.findings import Finding, Skip, at_most, told
from rrft_jax.bench import workload as workloads
from rrft_jax.data.shapes import Shape
from rrft_jax.models import VLM, Prompt, table
from rrft_jax.models import prompt as prompts
from rrft_jax.parallel import devices, sharding
from rrft_jax.parallel.gpus import GIB
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import measure, programs
from rrft_jax.rollout import Rollouts


@dataclasses.dataclass(frozen=True)
class Subject:
    """A GRPO step on the first device.

    Attributes:
      step: its shapes, and the sizes of its model.
      config: the settings of a run with such steps; all others are the defaults.
      mesh: the first device.
    """

    step: workloads.Workload
    config: settings.Config
    mesh: jax.sharding.Mesh

    @property
    def device(self) -> jax.Device:
        return self.mesh.devices.flat[0]

    @property
    def limits(self) -> devices.Limits | None:
        """The limits of the device; None if they aren't known."""
        return devices.limits(self.device)

    @functools.cached_property
    def model(self) -> VLM:
        return programs.make_model(self.config, self.step.model, self.mesh)

    def params(self) -> dict:
        """Return random float32 parameters."""
        plain = dataclasses.replace(self.model, dtype=jnp.float32, attention="xla")
        where = table.parameter_shardings(self.step.model, self.mesh)
        return jax.jit(plain.init, out_shardings=where)(jax.random.key(0))

    def prompt(self) -> Prompt:
        """Return the prompts, on the device."""
        return sharding.shard(self.mesh, workloads.random_prompt(self.step), prompts.AXES)

    def rollouts(self) -> Rollouts:
        """Return random completions of these prompts, all of the full length, on the device."""
        step, rng = self.step, np.random.default_rng(0)
        shape = (step.prompts, step.samples, step.new_tokens)
        tokens = rng.integers(10, min(600, step.model.text.vocab_size), shape).astype(np.int32)
        return Rollouts(
            prompt=None,
            tokens=tokens,
            mask=np.ones(shape, bool),
            finished=np.ones(shape[:2], bool),
            rollout_log_probs=np.full(shape, -1.0, np.float32),
        ).shard(self.mesh, self.prompt())

    def plan(self, names: Collection[str], present: Collection[str]) -> measure.Plan:
        """Return the plan of some of the step's programs.

        Args:
          names: the programs.
          present: the roles of arrays outside a program that this part of the check holds. A run
            holds more: `Part.held`.

        Raises:
          Skip: the device has too little memory for one of them.
        """
        shape = Shape(self.step.rows * self.step.cols, self.step.prompt_tokens, 0)
        plan = measure.make_plan(
            self.config, self.step.model, self.mesh, shape, self.limits, only=tuple(names)
        )
        for part in plan.parts:
            needed, room = planned_bytes(part, present), self.limits and self.limits.memory
            if part.memory is None or (room and needed > room):
                missing = f", {(needed - room) / GIB:.1f} GiB more than JAX has" if room else ""
                raise Skip(
                    f"{part.name} needs {needed / GIB:.1f} GiB{missing}; on a GPU, "
                    "XLA_CLIENT_MEM_FRACTION=0.95 gives JAX more than 0.75 of the memory"
                )
        return plan

    def memory(self, plan: measure.Plan, present: Collection[str]) -> Iterator[Finding]:
        """Yield the most memory that was held so far, beside the plan's and that of a run."""
        planned = max(planned_bytes(part, present) for part in plan.parts)
        used = (self.device.memory_stats() or {}).get("peak_bytes_in_use")
        yield told("memory by the plan, GiB", planned / GIB)
        yield at_most("memory at its peak, GiB", used and used / GIB, 1.1 * planned / GIB)
        yield told("memory of a run by the plan, GiB", plan.peak.needed / GIB)


def make() -> Subject:
    """Return the step at the sizes for this machine."""
    sizes = scale.here()
    step = sizes.step
    batch = {"batch_size": step.prompts, "num_generations": step.samples}
    config = settings.make(
        {
            "stages": ("grpo",),
            "model": sizes.model,
            "grpo": {**batch, **sizes.grpo},
            "sampling": {"max_new_tokens": step.new_tokens},
        }
    )
    return Subject(step, config, make_mesh(devices=jax.devices()[:1]))


def planned_bytes(part: measure.Part, present: Collection[str]) -> float:
    """Return the bytes that a program needs by its plan, with what is held here alone.

    Args:
      part: the program.
      present: the roles of arrays outside the program that are on the device.
    """
    absent = sum(size for role, size in part.held.items() if role not in present)
    return part.needed - absent
