"""A sample's number in, its size or its whole row out; `BadRow` where the sample cannot be used."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax

from rrft_jax.data.example import Example, Source
from rrft_jax.data.order import uniform
from rrft_jax.data.pictures import BadRow
from rrft_jax.data.processor import Processor
from rrft_jax.data.prompts import OWN, messages, target
from rrft_jax.data.shapes import Shape
from rrft_jax.models.prompt import Prompt


@flax.struct.dataclass
class Row:
    """One sample of a batch to be. Its arrays come from workers by shared memory."""

    prompt: Prompt
    source: int = flax.struct.field(pytree_node=False)
    example: Example = flax.struct.field(pytree_node=False)
    text: str = flax.struct.field(pytree_node=False)
    target: list[int] = flax.struct.field(pytree_node=False)  # empty without targets

    @property
    def size(self) -> Shape:
        return Shape(len(self.prompt.patches), len(self.prompt.tokens), len(self.target))


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of all sources, counted through, and how to make rows of them."""

    sources: Sequence[Source]
    processor: Processor
    paradigm: str
    seed: int
    targets: bool
    thought_dropout: float
    limits: Shape

    def measure(self, number: int) -> Shape | BadRow:
        """The size of a sample's row, if it can be used as far as one sees without its pixels."""
        return self._attempt(number, self._measure)

    def load(self, number: int) -> Row | BadRow:
        """A sample's row, its pictures decoded."""
        return self._attempt(number, self._load)

    def _attempt(self, number: int, make: Callable[[int, Example], Any]) -> Any:
        ends = list(itertools.accumulate(len(source.examples) for source in self.sources))
        k = bisect.bisect_right(ends, number)
        example = self.sources[k].examples[number - (ends[k - 1] if k else 0)]
        if isinstance(example, BadRow):
            return example
        try:
            return make(k, example)
        except BadRow as error:
            return BadRow(error.cause, f"sample {example.id}: {error}")

    def _measure(self, source: int, example: Example) -> Shape:
        chat, reply = self._ask(source, example)
        tokens, patches = self.processor.measure(chat, example.images)
        _check_length("prompt", tokens, self.limits.prompt)
        return Shape(patches, tokens, len(reply))

    def _load(self, source: int, example: Example) -> Row:
        chat, reply = self._ask(source, example)
        prompt = self.processor.encode(chat, example.images)
        _check_length("prompt", len(prompt.tokens), self.limits.prompt)
        return Row(prompt, source, example, self.processor.prompt_text(chat), reply)

    def _ask(self, source: int, example: Example) -> tuple[list[dict[str, Any]], list[int]]:
        """The chat, and the tokens of the reply to learn."""
        prompts, reply = self.sources[source].prompts or OWN, []
        if self.targets:
            think = uniform(self.seed, example.id) >= self.thought_dropout
            text = target(example, self.paradigm, think=think, prompts=prompts)
            reply = self.processor.encode_target(text)
            _check_length("target", len(reply), self.limits.target)
        return messages(example, self.paradigm, prompts), reply


def _check_length(what: str, length: int, limit: int) -> None:
    if length > limit:
        raise BadRow(f"{what} too long", f"its {what} has {length} tokens, more than {limit}")
