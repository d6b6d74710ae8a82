"""Data sets, and the rows made of their samples; `BadSample` if a sample cannot be used."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax

from rrft_jax.data.order import uniform
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.processor import Processor
from rrft_jax.data.prompts import OWN, messages, target
from rrft_jax.data.shapes import Shape
from rrft_jax.models.prompt import Prompt
from rrft_jax.tasks import find
from rrft_jax.tasks.example import Example
from rrft_jax.tasks.opening import completion_of


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set, and how it takes part in training: its words, its rewards, its share."""

    examples: Sequence[Example]
    prompts: Any = None  # a prompts.Prompts; None asks in the project's own words
    rewards: Mapping[str, float] | None = None  # name -> weight; None takes the config's rewards
    weight: float = 0.0  # relative share of the samples; 0 goes by the number of samples


@flax.struct.dataclass
class Row:
    """One sample, ready for a batch. Worker processes pass its arrays in shared memory."""

    prompt: Prompt
    source: int = flax.struct.field(pytree_node=False)
    example: Example = flax.struct.field(pytree_node=False)
    text: str = flax.struct.field(pytree_node=False)
    target: list[int] = flax.struct.field(pytree_node=False)  # tokens; empty without targets

    @property
    def size(self) -> Shape:
        """The row's size without padding."""
        return Shape(len(self.prompt.patches), len(self.prompt.tokens), len(self.target))


@dataclasses.dataclass(frozen=True)
class Format:
    """The form of prompts and targets that are made from samples, and their longest lengths."""

    paradigm: str  # one of prompts.PARADIGMS, or prompts.ZERO_SHOT without targets
    targets: bool  # whether there are completions to learn
    max_prompt_length: int  # tokens, pictures included; a longer prompt is left out
    max_target_length: int  # tokens; a longer target is left out
    # The share of samples whose target has an empty thought. The id of a sample decides, so that
    # every epoch drops the same thoughts.
    thought_dropout: float = 0.0

    @property
    def limits(self) -> Shape:
        """The largest row. The prompt's tokens bound the patches, which are four to a token."""
        return Shape(2**31, self.max_prompt_length, self.max_target_length)


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of all sources under consecutive numbers, and how to make rows of them."""

    sources: Sequence[Source]
    processor: Processor
    form: Format
    seed: int  # decides which samples have their thoughts dropped

    def measure(self, number: int) -> Shape | BadSample:
        """Return the size of a sample's row, without decoding its pictures.

        Return a `BadSample` if the text or the header of a picture already tells that the sample
        cannot be used.
        """
        return self._attempt(number, self._measure)

    def load(self, number: int) -> Row | BadSample:
        """Return a sample's row with its pictures decoded, or a `BadSample`."""
        return self._attempt(number, self._load)

    def _attempt(self, number: int, make: Callable[[int, Example], Any]) -> Any:
        ends = list(itertools.accumulate(len(source.examples) for source in self.sources))
        k = bisect.bisect_right(ends, number)
        example = self.sources[k].examples[number - (ends[k - 1] if k else 0)]
        if isinstance(example, BadSample):
            return example
        try:
            return make(k, example)
        except BadSample as error:
            return BadSample(error.cause, f"sample {example.id}: {error}")

    def _measure(self, source: int, example: Example) -> Shape:
        chat, reply = self._ask(source, example)
        tokens, patches = self.processor.measure(chat, example.images)
        _check_length("prompt", tokens, self.form.limits.prompt)
        return Shape(patches, tokens, len(reply))

    def _load(self, source: int, example: Example) -> Row:
        chat, reply = self._ask(source, example)
        prompt = self.processor.encode(chat, example.images)
        _check_length("prompt", len(prompt.tokens), self.form.limits.prompt)
        return Row(prompt, source, example, self.processor.prompt_text(chat), reply)

    def _ask(self, source: int, example: Example) -> tuple[list[dict[str, Any]], list[int]]:
        """Return the chat, and the tokens of the reply to learn."""
        prompts, reply = self.sources[source].prompts or OWN, []
        if self.form.targets:
            think = uniform(self.seed, example.id) >= self.form.thought_dropout
            text = target(example, self.form.paradigm, think=think, prompts=prompts)
            text = completion_of(find(example.task), self.processor.prompt_end, text)
            reply = self.processor.encode_target(text)
            _check_length("target", len(reply), self.form.limits.target)
        return messages(example, self.form.paradigm, prompts), reply


def _check_length(what: str, length: int, limit: int) -> None:
    if length > limit:
        raise BadSample(f"{what} too long", f"its {what} has {length} tokens, more than {limit}")
