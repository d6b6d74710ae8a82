"""Group sampling: G completions of each prompt.

The prompt goes through the model once. A jitted loop then extends all completions by one token at a
time. The loop stops in two cases, and the host continues with a program of another shape:

* The cache is full. It grows in chunks, so that short completions don't pay for the room of long
  ones.
* The unfinished sequences fit a smaller batch. So a hundred short completions don't wait for a long
  one at full cost. Batches shrink by one size at a time, so that one program of this kind per size
  is enough.

Shapes are few, and each compiles once. The drawn tokens don't depend on them. For example, 14 x 8
completions of up to 512 tokens, in caches that grow by 256, have fifteen sizes and three lengths:
at most 45 programs of the loop, of which one batch uses 17.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from rrft_jax.models.arrays import Array
from rrft_jax.models.attention.decoding import Slots
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM, PromptCache
from rrft_jax.parallel import sharding
from rrft_jax.rollout.lookahead import Lookahead, Run, call
from rrft_jax.rollout.rollouts import Rollouts
from rrft_jax.rollout.sampler import (
    Draws,
    Fixed,
    Sequences,
    advance,
    begin,
    compact,
    finish,
    grow,
    take_prompts,
)
from rrft_jax.rollout.sampling import SamplingParams

PLAIN = SamplingParams()
# How batches shrink: (the step, a power of 2, while more than a quarter of the sequences is left;
# the step below that; the fewest sequences of a device). Every size is a program to compile for
# each cache length that it meets. So finer steps only pay if completions may be LONG (tokens).
FINE, COARSE = (0.25, 0.5, 4), (1, 1, 8)
LONG = 256
# Room of the first cache in tokens, at most. On TPUs a smaller cache takes as much memory.
FIRST = 128
# Up to this many unfinished sequences per prompt, give each its own copy of the prompt's cache if
# the finished sequences have left room for copies. Without room the limit is one per prompt.
# With copies, the slots of finished sequences are no longer computed.
OWN_PROMPT = 2


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """The settings of sampling.

    Attributes:
      max_new_tokens: T, the most tokens of a completion.
      stop_tokens: the tokens that end a completion (`Processor.stop_tokens`).
      num_generations: G, completions per prompt.
      sampling: temperature, top-k and top-p; traced, so that a change compiles nothing again.
      pad_token: the token after the end of a completion.
      cache_chunk: tokens by which the cache grows (`cache_lengths`). A step reads the whole cache,
        so smaller chunks are faster, once each of their programs is compiled.
      budget: the most tokens (at least 1) of each completion; None gives T to all.
      lookahead: compiles the next programs meanwhile; None compiles each one when it is needed.
    """

    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    num_generations: int = 1
    sampling: SamplingParams = PLAIN
    pad_token: int = 0
    cache_chunk: int = 256
    budget: Int[Array, "B G"] | None = None
    lookahead: Lookahead | None = None


class LoopState(NamedTuple):
    """The state of the loop between two programs.

    Attributes:
      prompts: the caches of the prompts.
      sequences: the sequences that are being sampled.
      slot_ids: [shards,r], the first place of each sequence among the sequences of its device.
      results: the results [B*G,T] of all sequences; None as long as no sequence was dropped.
    """

    prompts: PromptCache
    sequences: Sequences
    slot_ids: Int[Array, "shards r"]
    results: Rollouts | None


@dataclasses.dataclass(frozen=True)
class Loop:
    """The programs of the loop, in the order in which a batch may need them.

    Attributes:
      fixed: the settings that programs are compiled for.
      batch: B, the prompts.
      group: G, completions per prompt.
      sizes: the batch sizes of a device, ever fewer.
      lengths: the lengths of the caches, ever longer.
    """

    fixed: Fixed
    batch: int
    group: int
    sizes: Sequence[int]
    lengths: Sequence[int]

    def smaller(self, state: LoopState) -> np.int32:
        """Return the next smaller size; 0 if there is none."""
        size = state.slot_ids.shape[1]
        return np.int32(max((own for own in self.sizes if own < size), default=0))

    def moves(self, state: LoopState) -> list[str]:
        """Return the ways to go on from a state, the likelier one first."""
        longer = state.sequences.cache[0].length < self.lengths[-1]
        return ["compact"] * bool(self.smaller(state)) + ["grow"] * longer

    def move(
        self, name: str, state: LoopState, lookahead: Lookahead | None = None, run: Run = call
    ) -> LoopState:
        """Return the state in the next smaller size ("compact") or the longer cache ("grow").

        Args:
          name: the move.
          state: the state before.
          lookahead: is waited for, if it compiles the programs of this move.
          run: runs a program on its arguments; `ahead.result` compiles it for shapes instead.
        """
        if lookahead:
            lookahead.finish(state, name)
        if name == "grow":
            now = state.sequences.cache[0].length
            length = min(own for own in self.lengths if own > now)
            longer = run(grow, self.fixed.model, state.sequences, length)
            return state._replace(sequences=longer)
        return self._compacted(state, run)

    def compile(self, weights: dict, state: LoopState, sampling: SamplingParams) -> None:
        """Compile the programs that run in a state: the loop, and the end of the batch."""
        prompts, sequences, slot_ids, results = state
        enough = self.smaller(state)
        advance.lower(self.fixed, weights, prompts, sequences, sampling, enough).compile()
        finish.lower(self.fixed.model, sequences.out, slot_ids, results, self.group).compile()

    def sample(
        self,
        weights: dict,
        state: LoopState,
        sampling: SamplingParams,
        lookahead: Lookahead | None = None,
    ) -> Rollouts:
        """Return the rollouts [B,G,T] of a state, once all of its sequences are done."""
        while True:
            if lookahead:
                lookahead.begin(self, weights, state, sampling)
            sequences, most = advance(
                self.fixed, weights, state.prompts, state.sequences, sampling, self.smaller(state)
            )
            state, most = state._replace(sequences=sequences), int(most)
            if not most:
                fixed, out = self.fixed, sequences.out
                return finish(fixed.model, out, state.slot_ids, state.results, self.group)
            if most > self.smaller(state):
                state = self.move("grow", state, lookahead)
            while most <= self.smaller(state):
                state = self.move("compact", state, lookahead)

    def _compacted(self, state: LoopState, run: Run) -> LoopState:
        model, prompts, slots = self.fixed.model, state.prompts, state.slot_ids
        own = prompts.slots is None and len(prompts.mask) == slots.size
        size, group = int(self.smaller(state)), None if own else self.group
        sequences, slots, prompt_ids, results = run(
            compact, model, state.sequences, slots, state.results, size, group
        )
        left, length = slots.size, sequences.cache[0].length
        room = (self.batch * self.group - left) * length >= left * prompts.mask.shape[1]
        if left <= (OWN_PROMPT if room else 1) * self.batch:
            prompts = run(take_prompts, model, prompts, prompt_ids)
        else:
            prompts = prompts.replace(slots=Slots(slots, self.group))
        return LoopState(prompts, sequences, slots, results)


def generate(
    model: VLM,
    params: dict,
    prompt: Prompt,
    key: Array,
    config: GenerationConfig,
    first_row: int = 0,
) -> Rollouts:
    """Sample completions. Don't call this inside `jax.jit`: it calls jitted programs of its own.

    Tokens that stand for pictures are never drawn.

    Args:
      model: the model.
      params: its parameters.
      prompt: B prompts.
      key: the random key. A draw is a function of (key, prompt index, sample index, token index).
      config: the settings of sampling.
      first_row: the index of the first prompt, if a data set comes in several batches. A sample's
        draws then don't depend on the size of the batches.
    """
    loop, state = start(model, params, prompt, draws(key, config, prompt, first_row), config)
    weights = model.decoding_weights(params)
    out = loop.sample(weights, state, traced(config.sampling), config.lookahead)
    return out.replace(prompt=prompt)


def start(
    model: VLM, params: dict, prompt: Prompt, draws: Draws, config: GenerationConfig
) -> tuple[Loop, LoopState]:
    """Run the prompts through the model; return the loop over their tokens, and its first state."""
    batch, group = len(prompt.tokens), config.num_generations
    # The sequences are split evenly over `shards` devices; over one if the prompts aren't split.
    shards = 1 if model.mesh is None else sharding.num_shards(model.mesh, "B", batch)
    rows = batch * group // shards
    fixed = Fixed(model, config.max_new_tokens, config.stop_tokens, config.pad_token, shards)
    lengths = cache_lengths(config.cache_chunk, config.max_new_tokens)
    loop = Loop(fixed, batch, group, _sizes(rows, config.max_new_tokens), lengths)
    prompts, sequences = begin(fixed, params, prompt, draws, lengths[0])
    slot_ids = np.tile(np.arange(rows, dtype=np.int32), (shards, 1))
    return loop, LoopState(prompts, sequences, slot_ids, None)


def draws(key: Array, config: GenerationConfig, prompt: Prompt, first_row: int) -> Draws:
    """Return the source of the random numbers of a batch."""
    return Draws(key, np.int32(first_row), _budget(config, len(prompt.tokens)))


def traced(sampling: SamplingParams) -> SamplingParams:
    """Return the same values in fixed dtypes, so that a new value compiles no program again."""
    return SamplingParams(
        np.float32(sampling.temperature), np.int32(sampling.top_k), np.float32(sampling.top_p)
    )


def _budget(config: GenerationConfig, batch: int) -> Int[Array, "B G"]:
    if config.budget is None:
        return np.full((batch, config.num_generations), config.max_new_tokens, np.int32)
    return config.budget


def cache_lengths(chunk: int, max_new_tokens: int) -> list[int]:
    """Return the lengths in tokens of the caches, in order: at most `FIRST`, then by chunks."""
    lengths = [min(FIRST, chunk), *range(chunk, max_new_tokens, chunk), max_new_tokens]
    return sorted({length for length in lengths if length <= max_new_tokens})


def _sizes(rows: int, max_new_tokens: int) -> list[int]:
    """Return the batch sizes of a device that have programs: all sequences, and ever fewer."""
    many, few, fewest = FINE if max_new_tokens >= LONG else COARSE
    sizes, octave = {rows}, 0.0
    # Each size is computed from `rows`, not from the size before, so that rounding errors don't add
    # up: B x 2^n sequences reach exactly B.
    while (size := math.ceil(rows * 2**-octave - 1e-6)) >= fewest:
        sizes.add(size)
        octave += many if octave < 2 else few
    return sorted(sizes, reverse=True)
