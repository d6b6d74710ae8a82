"""A step of this package: pictures and texts in, an update out."""

import dataclasses
import sys
from concurrent import futures

import jax
import numpy as np
import work as works
from turns import Turns

from rrft_jax.bench import grpo
from rrft_jax.bench.workload import REMAT, micro_batches
from rrft_jax.data import Processor, shapes
from rrft_jax.data.shapes import Shape
from rrft_jax.hf import load_pretrained
from rrft_jax.models.prompt import Prompt
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import Rollouts
from rrft_jax.settings import SFTSettings
from rrft_jax.training import objectives, sft
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states


def main(folder: str) -> None:
    """Run the steps of a work's folder, each in its turn."""
    turns, work = Turns(), works.read(folder)
    model, params = load_pretrained(work.checkpoint, np.float32, mesh=make_mesh())
    model = dataclasses.replace(model, remat=REMAT)
    processor = Processor.from_pretrained(work.checkpoint)
    step = STEPS[work.name](work, model, params, processor)
    turns.ready("jax")
    while turns.wait():
        turns.done(**step())


class GRPO:
    """A step of GRPO with its reference, on the same prompts each time."""

    def __init__(self, work, model, params, processor):
        """Compile nothing yet."""
        self.work, self.processor, self.number = work, processor, 0
        parts = micro_batches(work.prompts)
        self.parts = grpo.Step(model, params, work.samples, work.new_tokens, parts)

    def __call__(self) -> dict[str, int]:
        """Run the step, and return what it has counted."""
        prompt = prompts(self.work, self.processor)
        rollouts = self.parts.sample(prompt, self.number)
        log_probs = self.parts.reference(rollouts)
        tokens = np.asarray(rollouts.tokens)
        rewards = [[works.reward(self.processor.decode(row)) for row in rows] for rows in tokens]
        advantages = objectives.group_std_advantages(np.array(rewards))
        self.parts.update(rollouts, log_probs, np.asarray(advantages, np.float32))
        self.number += 1
        return counts(rollouts)


class Sampling:
    """The completions of the same prompts each time, as texts."""

    def __init__(self, work, model, params, processor):
        """Compile nothing yet."""
        self.work, self.processor, self.number = work, processor, 0
        parts = micro_batches(work.prompts)
        self.parts = grpo.Step(model, params, work.samples, work.new_tokens, parts)

    def __call__(self) -> dict[str, int]:
        """Sample, and return what it has counted."""
        rollouts = self.parts.sample(prompts(self.work, self.processor), self.number)
        for row in np.asarray(rollouts.tokens).reshape(-1, self.work.new_tokens):
            self.processor.decode(row)
        self.number += 1
        return counts(rollouts)


class SFT:
    """A step of SFT on the same rows each time."""

    def __init__(self, work, model, params, processor):
        """Compile nothing yet."""
        self.work, self.processor = work, processor
        optimizer = optimizers.make_optimizer(SFTSettings(), 1000)
        self.state = states.create(params, optimizer, "", make_mesh())
        parts = micro_batches(work.prompts)
        self.update = sft.make_step(model, optimizer, "", parts, states.layout(self.state))

    def __call__(self) -> dict[str, int]:
        """Run the step, and return what it has counted."""
        prompt = prompts(self.work, self.processor)
        target = self.processor.encode_target(self.work.target)
        completions = np.zeros((len(prompt.tokens), 1, shape(len(target)).target), np.int32)
        completions[:, :, : len(target)] = target
        mask = np.broadcast_to(np.arange(completions.shape[2]) < len(target), completions.shape)
        batch = sft.SFTBatch(prompt, completions, mask)
        self.state, metrics = self.update(self.state, batch)
        jax.block_until_ready((self.state, metrics))
        return {
            "rows": len(prompt.tokens),
            "tokens": int(prompt.mask.sum() + mask.sum()),
        }


STEPS = {"grpo": GRPO, "grpo_text": GRPO, "sampling": Sampling, "sft": SFT}


def counts(rollouts: Rollouts) -> dict[str, int]:
    """Return what is counted of a step's completions."""
    return {
        "completions": rollouts.tokens.shape[0] * rollouts.tokens.shape[1],
        "completion_tokens": int(rollouts.mask.sum()),
        "prompt_tokens": int(rollouts.prompt.mask[0].sum()),
    }


def prompts(work: works.Work, processor: Processor) -> Prompt:
    """Read the pictures in threads, as a run does, and return the prompts."""
    pictures = [[picture] for picture in work.pictures] or work.prompts * [[]]
    with futures.ThreadPoolExecutor(work.threads) as pool:
        rows = list(pool.map(lambda one: processor.encode(work.chat, one), pictures))
    of_run = shape(prompt=rows[0].tokens.size, patches=len(rows[0].patches))
    return processor.batch(rows, of_run.prompt, of_run.patches)


def shape(target: int = 0, prompt: int = 0, patches: int = 0) -> Shape:
    """Return the padded sizes that a run would choose for rows of one size."""
    size = Shape(patches, prompt, target)
    [chosen] = shapes.choose([size], Shape(2**30, 2**30, 2**30), max_shapes=1)
    return chosen


if __name__ == "__main__":
    main(sys.argv[1])
