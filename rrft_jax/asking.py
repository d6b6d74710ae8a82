"""Questions about pictures to a model: `load` a run or a checkpoint folder, then `ask`.

    model = rrft_jax.load("runs/demo")
    reply = model.ask("scene.png", "How many cubes are there?")
    print(reply.answer)

A question is asked in the words that the run trained under. Each one stands alone: the model does
not see the questions before it.

The program of a model is compiled for each shape of its input. So a single question is padded to
one of a few fixed shapes. Many questions together are measured first, as the loader does, and get
shapes that suit them. No reply depends on the padding.
"""

import contextlib
import dataclasses
import numbers
import pathlib
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from rrft_jax import fields
from rrft_jax.data import BadSample, Batching, Format, Processor, Prompts, Source, shapes
from rrft_jax.data.loader import Loader, Reading
from rrft_jax.data.order import Order, make_stream
from rrft_jax.data.questions import read_question
from rrft_jax.data.samples import Samples
from rrft_jax.data.shapes import Shape
from rrft_jax.data.sources import prompts_of
from rrft_jax.errors import UserError
from rrft_jax.fields import TOP_P, at_least, field
from rrft_jax.hf import kinds, load_pretrained, storage
from rrft_jax.models import VLM, Prompt
from rrft_jax.models import prompt as prompts
from rrft_jax.parallel import sharding
from rrft_jax.rewards.format import extract_answer, extract_thought
from rrft_jax.rollout import GenerationConfig, Rollouts, SamplingParams, generate
from rrft_jax.settings import Config
from rrft_jax.tasks import CUSTOM, find
from rrft_jax.tasks.opening import reply_of
from rrft_jax.workdir import read_config

_ROWS_PER_SHAPE = 200  # so many questions together are worth a further program
_MAX_SHAPES = 4
_MEASURED = 1000  # questions that the shapes are chosen by
# The most patches of a batch with plain XLA attention. It computes fewer queries at a time if there
# are more rows, so larger batches of large pictures are slower.
_XLA_PATCHES = 2**13


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The way in which replies are drawn: the likeliest token at each place by default."""

    temperature: float = field(0.0, "Divides the logits. 0 is greedy.", at_least(0))
    top_k: int = field(0, "Draw from the likeliest tokens. 0 is all of them.", at_least(0))
    top_p: float = field(1.0, "Draw from the likeliest tokens with this share.", TOP_P)
    max_new_tokens: int = field(768, "Tokens of the longest reply.", at_least(1))
    seed: int = field(0, "The seed of the draws.", at_least(0))

    def changed(self, **changes: Any) -> "Decoding":
        """Return the same with other values.

        Raises:
          UserError: a name is unknown, or a value has the wrong type or size.
        """
        known = {option.key: option for option in fields.described(Decoding)}
        for name, value in changes.items():
            if name not in known:
                raise UserError(f"unknown option {name}: expected one of {', '.join(known)}")
            rule, is_int = known[name].rule, known[name].own.type is int
            kind = numbers.Integral if is_int else numbers.Real
            if isinstance(value, bool) or not isinstance(value, kind) or not rule.holds(value):
                what = "an integer" if is_int else "a number"
                raise UserError(f"{name}={value!r}: expected {what}, {rule.wanted}")
        return dataclasses.replace(self, **changes)


class Reply(str):
    """The whole text of a reply.

    Attributes:
      finished: False if the reply was cut off after `max_new_tokens`.
    """

    finished: bool

    def __new__(cls, text: str, finished: bool = True) -> "Reply":
        """Make a reply of its text."""
        reply = super().__new__(cls, text)
        reply.finished = finished
        return reply

    @property
    def thought(self) -> str:
        """The text inside `<think> </think>`; empty without these tags."""
        return extract_thought(self)

    @property
    def answer(self) -> str:
        """The text inside `<answer> </answer>`; without these tags, the text behind the thought."""
        return extract_answer(self)[0]


def load(
    path: storage.Path,
    *,
    adapter: storage.Path | None = None,
    instruction: str | None = None,
    max_pixels: int | None = None,
    dtype: Any = None,
    mesh: jax.sharding.Mesh | None = None,
) -> "Asker":
    """Load a model to ask.

    Args:
      path: the folder of a run, which stands for its export; a folder inside that of a run, such as
        RUN/export-best; or any Hugging Face folder. Either may be at a URL.
      adapter: the PEFT folder of a low-rank adapter of this model, or the folder of a run that
        trained one; its run's words are asked.
      instruction: follows each question on a new line, or has it at the place of `{problem}`; ""
        asks the bare question. None asks in the words of the run. A folder that belongs to no run
        has no words, so None asks it the bare question.
      max_pixels: larger pictures are made smaller; None takes the run's limit, or the default of
        `data.max_pixels`.
      dtype: the dtype of weights and activations; None takes the run's, or that of the files.
      mesh: the devices that share the model, from `make_mesh`; None is the first device.

    Raises:
      UserError: the folder is not a run or a checkpoint, or a file in it is not what it should be.
    """
    run = _run(adapter or path)
    config = Config() if run is None else run
    dtypes = {"dtype": dtype, "compute_dtype": dtype}
    if run is not None and dtype is None:
        dtypes = {"dtype": run.model.dtype, "compute_dtype": run.model.compute_dtype}
    # First, because its errors tell what a folder is.
    model, params = load_pretrained(path, mesh=mesh, adapter=adapter, **dtypes)
    processor = Processor.from_pretrained(
        path, min_pixels=config.data.min_pixels, max_pixels=max_pixels or config.data.max_pixels
    )
    task, paradigm = CUSTOM, "cot_sft"
    words = Prompts(replaced={CUSTOM: instruction or ""})
    if instruction is None and run is not None:
        task, paradigm, words = run.task, run.paradigm, prompts_of(run)
    form = Format(paradigm, False, config.data.max_prompt_length, 0)
    model = dataclasses.replace(model, attention=config.model.attention)
    decoding = Decoding(max_new_tokens=config.eval.max_new_tokens)
    return Asker(model, params, processor, config, task, words, form, decoding)


def _run(path: storage.Path) -> Config | None:
    """Return the config of the run that a folder is, or lies in; None if there is no run."""
    kinds.check_name(path)
    if not storage.is_url(path):
        path = pathlib.Path(path).expanduser().absolute()
    for folder in (path, str(path).rstrip("/").rpartition("/")[0]):
        if kinds.holds_run(folder):
            return read_config(folder)
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class Asker:
    """A model to ask; `load` makes it. Threads may share it: they take turns.

    Attributes:
      model, params: the model and its parameters, as `load_pretrained` returns them.
      processor: the processor of the checkpoint.
      config: the config of the run; the defaults without a run.
      task: the task whose questions are asked.
      words: the words around a question.
      form: the form of a prompt, and its longest length.
      decoding: the way in which replies are drawn, unless a call says otherwise.
    """

    model: VLM
    params: dict
    processor: Processor
    config: Config
    task: str
    words: Prompts
    form: Format
    decoding: Decoding
    _turn: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def ask(self, pictures: Any, question: str, **decoding: Any) -> Reply:
        """Return the model's reply to one question.

        Args:
          pictures: a picture, a list of pictures, or None. A picture is a path, a PIL image, the
            bytes of a picture file, or an array of uint8 [height, width, 3]. Pictures stand in
            front of the question, or in the places that it marks by `<image>`.
          question: the question, without instruction.
          **decoding: changed fields of `Decoding`. At a temperature above 0 the same seed gives the
            same reply.

        Raises:
          UserError: a picture can't be used, or the question or an option makes no sense.
        """
        return self.ask_all([(pictures, question)], **decoding)[0]

    def ask_all(self, rows: Iterable[Any], **decoding: Any) -> list[Reply]:
        """Return the replies to many questions, in their order; this is faster than one by one.

        Args:
          rows: pairs of (pictures, question) as in `ask`, or records of a data set: {"image": ...,
            "problem": ...}. A record's answer only decides which kind of answer is asked for.
          **decoding: as in `ask`. A row that stands there several times is drawn anew each time.

        Raises:
          UserError: a row can't be used; the message has its number, from 0 on.
        """
        how = self.decoding.changed(**decoding)
        rows = list(rows)
        if not rows:
            return []
        alone = len(rows) == 1

        def refuse(bad: BadSample) -> NoReturn:
            raise _refusal(bad, alone)

        examples = []
        for number, row in enumerate(rows):
            try:
                example = read_question(row, self.task, self.config.data.columns)
            except BadSample as error:
                refuse(BadSample(error.cause, f"sample row {number}: {error}"))
            examples.append(dataclasses.replace(example, id=f"row {number}"))
        samples = Samples([Source(examples, self.words)], self.processor, self.form, seed=0)
        sizes = [samples.measure(number) for number in range(len(examples))]
        for size in sizes:
            if isinstance(size, BadSample):
                refuse(size)
        chosen = _shapes(sizes, self.form.limits)
        batch_size = self._batch_size(len(examples), max(s.patches for s in chosen))
        batching = Batching(batch_size, seed=0, shuffle=False, epochs=1)
        order = Order(
            make_stream([len(examples)], [0.0], batching),
            sizes.__getitem__,
            len(examples),
            batching,
            self.form.limits,
            chosen,
        )
        reading = Reading(report=refuse, max_skipped_share=1.0)
        replies: dict[str, Reply] = {}
        with contextlib.closing(Loader(samples, order, reading)) as loader:
            for number, batch in enumerate(loader):
                rollouts = self._sample(batch.prompt, how, number * batch_size)
                for b, example in zip(batch.rows, batch.examples):
                    text = self.processor.decode(rollouts.tokens[b, 0][rollouts.mask[b, 0]])
                    text = reply_of(find(example.task), self.processor.prompt_end, text)
                    replies[example.id] = Reply(text, bool(rollouts.finished[b, 0]))
        return [replies[example.id] for example in examples]

    def _batch_size(self, rows: int, patches: int) -> int:
        """Return the size of equal batches, of which few sizes are ever compiled."""
        most = self.config.eval.batch_size
        if self.model.kernels.form == "xla":
            most = min(most, max(1, _XLA_PATCHES // max(patches, 1)))
        return min(shapes.bucket(-(-rows // -(-rows // most)), smallest=1), most)

    def _sample(self, prompt: Prompt, how: Decoding, first_row: int) -> Rollouts:
        """Sample one completion [B,1,T] of each prompt."""
        config = GenerationConfig(
            # The length of a reply is no part of the program, but the room for it is.
            max_new_tokens=shapes.bucket(how.max_new_tokens),
            budget=np.full((len(prompt.tokens), 1), how.max_new_tokens, np.int32),
            stop_tokens=self.processor.stop_tokens,
            sampling=SamplingParams(how.temperature, how.top_k, how.top_p),
            pad_token=self.processor.pad_token,
        )
        with self._turn:
            if self.model.mesh is not None:
                prompt = sharding.shard(self.model.mesh, prompt, prompts.AXES)
            key = jax.random.key(how.seed)
            rollouts = generate(self.model, self.params, prompt, key, config, first_row).fetch()
        if not np.isfinite(rollouts.log_probs).all():
            raise UserError(
                f"{self.model.source}: a log-probability is not a finite number, so the weights "
                "are broken; take those of an earlier checkpoint"
            )
        return rollouts


def _refusal(bad: BadSample, alone: bool) -> UserError:
    """Return the error about a row that can't be used; the only row of a call has no number."""
    message = str(bad).removeprefix("sample ")
    if alone:
        message = message.removeprefix("row 0: ")
    if bad.cause == "prompt too long":
        message += "; give fewer pictures, or load the model with a smaller max_pixels"
    return UserError(message)


def _shapes(sizes: Sequence[Shape], limits: Shape) -> list[Shape]:
    """Return the shapes that rows are padded to, cheapest first."""
    if len(sizes) == 1:
        return [shapes.fixed(sizes[0])]
    some = [*sizes[:: -(-len(sizes) // _MEASURED)], shapes.union(sizes)]
    number = min(1 + len(sizes) // _ROWS_PER_SHAPE, _MAX_SHAPES)
    chosen = shapes.choose(some, limits, number)
    # Rounded up further, so that the next call with similar rows has the same shapes.
    return [Shape(*map(shapes.bucket, shape)) for shape in chosen]
