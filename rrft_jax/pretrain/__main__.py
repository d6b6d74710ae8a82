"""The training of the base: the tower learns to see, the model to tell, answer and look back."""

import itertools
import pathlib
import tempfile
from collections.abc import Iterator

import flax
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from rrft_jax.data import prompts
from rrft_jax.data.processor import Processor
from rrft_jax.hf import pretrained
from rrft_jax.models.vlm import VLM
from rrft_jax.monitoring import Progress
from rrft_jax.parallel import mesh as meshes
from rrft_jax.parallel import sharding
from rrft_jax.pretrain import recall
from rrft_jax.pretrain.folder import SPECIAL, VOCABULARY, write_folder
from rrft_jax.pretrain.lessons import LESSONS, SLOTS, STREAM, Lesson
from rrft_jax.tasks import TASKS
from rrft_jax.tasks.drawings import counting, structure, transformation
from rrft_jax.tasks.wording import BRIEF
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import sft
from rrft_jax.training import state as states

OUT = flags.DEFINE_string("out", None, "folder for the checkpoint", required=True)
START = flags.DEFINE_string("start", None, "folder of a base to continue with")
TAUGHT = flags.DEFINE_list("phases", None, "some of the phases, in order; the default is all")
SEED = flags.DEFINE_integer("seed", 1, "of weights and pictures")

LEARNING_RATE = {"muon": 3e-3, "adam": 1e-3}  # muon: matrices; adam: embeddings, biases, norms
WARM_UP = 50
# Steps of each phase. First the vision tower alone learns the words of the things that it sees,
# which costs little. Then the whole model learns to talk about them, and to answer. Then the
# decoder alone learns to look back in a text. The last phase has all of these together.
PHASES = {"see": 1200, "perceive": 2150, "answer": 2450, "recall": 2850, "review": 1900}
# Task -> its lessons per step in each phase, and the tokens of its longest text.
SIZES = {
    counting.NAME: ({"see": 16, "perceive": 10, "answer": 8, "review": 6}, 76),
    structure.NAME: ({"see": 24, "perceive": 10, "answer": 10, "review": 7}, 104),
    transformation.NAME: ({"see": 10, "perceive": 10, "answer": 10, "review": 7}, 152),
    "recall": ({"recall": 24, "review": 12}, 128),
}
# Frozen parameters of each phase. At first the decoder's layers, which learn nothing from words.
FREEZE = {"see": "language/(?!embed).*", "recall": "vision/.*"}
ROTATION = 16  # features between the slots of a visual token's words


def corpus(seed: int, samples: int = 300) -> Iterator[str]:
    """Return the texts that the vocabulary is made from: the base's and its later training's."""
    for index in range(samples):
        for number, (task, lesson) in enumerate(LESSONS.items()):
            for phase in ("see", "perceive", "answer"):
                rng = np.random.default_rng([seed, STREAM, number, index])
                for conversation in lesson(rng, phase, 1.0).texts:
                    yield from (f"{question}\n{answer}" for question, answer in conversation)
            for split in TASKS[task].splits:
                example = TASKS[task].sample(split, seed, index, 28)
                yield f"user\n{example.problem}\n{BRIEF.format(kind='calls')}"
                yield f"assistant\n{prompts.target(example, 'reason_rft')}"


@flax.struct.dataclass
class Batch:
    """Conversations about pictures, and the tokens `words` [B,N,slots] that visual tokens name.

    A word of -1 has no loss.
    """

    texts: sft.SFTBatch
    words: jax.Array


AXES = {task: Batch(texts=sft.AXES, words="BN.") for task in SIZES}


def loss(model: VLM, params: dict, batches: dict[str, Batch], phase: str):
    """Return the cross-entropy of the words of visual tokens and, after phase "see", of texts."""
    total, metrics = 0.0, {}
    for task, batch in batches.items():
        if phase != "see":
            texts, _ = sft.loss(model, params, batch.texts, batch.texts.mask.sum())
            metrics[task] = texts
            total += texts
        if not batch.words.shape[1]:  # text alone
            continue
        visual = model.encode_images(params, batch.texts.prompt)
        embedding = params["language"]["embed"]["embedding"]
        asked, named = batch.words >= 0, []
        for slot, words in zip(SLOTS[task], jnp.moveaxis(batch.words, -1, 0)):
            logits = jnp.roll(visual, -slot * ROTATION, axis=-1) @ embedding.T
            named.append(jnp.take_along_axis(jax.nn.log_softmax(logits), words[..., None], -1))
        named = jnp.concatenate(named, -1)
        words_loss = -jnp.sum(named * asked) / jnp.maximum(asked.sum(), 1)
        metrics[f"{task}_words"] = words_loss
        total += words_loss
    return total, metrics


def make_step(model: VLM, optimizer: optax.GradientTransformation, phase: str, layout):
    """Return the jitted step: (state, batches of all tasks) -> (state, metrics)."""
    freeze = FREEZE.get(phase, "")

    def step(state: states.TrainState, batches: dict[str, Batch]):
        return states.update(
            state,
            optimizer,
            freeze,
            lambda params, micro: loss(model, params, micro, phase),
            sharding.micro_batches(batches, {t: AXES[t] for t in batches}, 1),
        )

    return jax.jit(step, donate_argnums=0, out_shardings=(layout, None))


def batches(processor: Processor, task: str, seed: int, phase: str):
    """Return a grain iterator of a task's `Batch`es.

    A row is one lesson; its conversations are the group.
    """
    lessons, length = SIZES[task][0][phase], SIZES[task][1]
    rows = PHASES[phase] * lessons
    stream = [seed, STREAM, 10 + list(SIZES).index(task), list(PHASES).index(phase)]

    def make(index: int) -> Batch:
        rng, progress = np.random.default_rng([*stream, index]), index / rows
        if task == "recall":
            return text_row(processor, rng, length, phase, progress)
        return row(processor, LESSONS[task](rng, phase, progress), length)

    def batch(parts: list[Batch]) -> Batch:
        texts = [part.texts for part in parts]
        prompt = processor.batch(
            [text.prompt for text in texts],
            prompt_length=len(texts[0].prompt.tokens),
            num_patches=len(texts[0].prompt.patches),
        )
        completions, mask = (
            np.stack([getattr(t, f) for t in texts]) for f in ("completions", "mask")
        )
        return Batch(
            sft.SFTBatch(prompt, completions, mask), np.stack([part.words for part in parts])
        )

    data = grain.MapDataset.range(rows).map(make).batch(lessons, batch_fn=batch)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def row(processor: Processor, lesson: Lesson, length: int) -> Batch:
    """Return a lesson as unbatched arrays; its texts have `length` tokens or nearly so many.

    The shared prompt ends with the pictures. Each text holds its own questions, without loss.
    """

    def plain(text: str) -> list[int]:
        return processor.encode_target(text)[:-1]

    # An empty question has all the tokens between the texts: user turn, its end, assistant turn.
    around = processor.encode([{"role": "user", "content": ""}]).tokens.tolist()
    end = around.index(processor.stop_tokens[0])
    again, turn = [*plain("\n"), *around[:end]], around[end:]

    chat = [{"role": "user", "content": [{"type": "image"} for _ in lesson.images]}]
    prompt = processor.encode(chat, lesson.images)
    end = len(prompt.tokens) - len(turn)
    prompt = prompt.replace(
        tokens=prompt.tokens[:end],
        mask=prompt.mask[:end],
        positions=prompt.positions[:, :end],
        next_position=prompt.positions[0, end - 1] + 1,
    )
    tokens = np.full((len(lesson.texts), length), processor.pad_token, np.int32)
    mask = np.zeros((len(lesson.texts), length), bool)
    for i, conversation in enumerate(lesson.texts):
        text, answers = [], []
        for question, answer in itertools.chain(conversation, iter(lesson.ask, None)):
            asked = [*(again if text else ()), *plain(question), *turn]
            answered = processor.encode_target(answer)
            if text and len(text) + len(asked) + len(answered) > length:
                break
            text += [*asked, *answered]
            answers += [False] * len(asked) + [True] * len(answered)
        tokens[i, : len(text)] = text[:length]
        mask[i, : len(text)] = answers[:length]
    words = [[-1 if w is None else plain(w)[0] for w in shown] for shown in lesson.words]
    return Batch(sft.SFTBatch(prompt, tokens, mask), np.array(words, np.int32))


def text_row(
    processor: Processor, rng: np.random.Generator, length: int, phase: str, progress: float
):
    """Return a row of `recall` as unbatched arrays; repetitions come before lists to look up in."""
    words = np.arange(len(SPECIAL), VOCABULARY)
    lists = 0.0 if phase == "recall" and progress < 0.4 else 0.75
    tokens, mask = recall.row(
        rng, lambda text: processor.encode_target(text)[:-1], words, length, lists
    )
    prompt = processor.encode([{"role": "user", "content": ""}])
    return Batch(sft.SFTBatch(prompt, tokens[None], mask[None]), words=np.zeros((0, 1), np.int32))


def make_optimizer(params: dict[str, jax.Array], steps: int) -> optax.GradientTransformation:
    """Return the optimizer: Muon for the layers' matrices, AdamW for the rest.

    See https://kellerjordan.github.io/posts/muon/. With Muon a model of this size learns to look
    things up in far fewer steps than with AdamW alone.

    Args:
      params: the trained parameters, {path: array}; matrices of layers are stacked.
      steps: the number of steps; after a warm-up the learning rates fall to nearly 0 at the end.
    """

    def falling(peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0.0, peak, WARM_UP, steps, peak / 50)

    def matrix(path: str, axes: int) -> optax.contrib.MuonDimensionNumbers | None:
        if path.endswith("kernel") and "patch_embed" not in path:
            return optax.contrib.MuonDimensionNumbers(axes - 2, axes - 1)
        return None

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            falling(LEARNING_RATE["muon"]),
            adam_learning_rate=falling(LEARNING_RATE["adam"]),
            adam_b2=0.95,
            consistent_rms=0.2,  # steps as large as Adam's
            weight_decay=0.02,
            weight_decay_mask={path: path.endswith(optimizers.DECAYED) for path in params},
            muon_weight_dimension_numbers={p: matrix(p, x.ndim) for p, x in params.items()},
        ),
    )


def train(model: VLM, params: dict, processor: Processor, phase: str) -> dict:
    """Train for one phase; consume `params`, and return the parameters after it."""
    mesh, steps = meshes.make_mesh(), PHASES[phase]
    whole = sharding.replicated(mesh)
    trained, _ = states.split(params, FREEZE.get(phase, ""))
    optimizer = make_optimizer(trained, steps)
    # Start from arrays that are on every device, so that the state is there too.
    first = states.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=jax.jit(optimizer.init)(trained),
        moved=jnp.zeros((), bool),
    )
    state = jax.device_put(first, whole)
    step = make_step(model, optimizer, phase, states.layout(state))
    taught = [task for task, (lessons, _) in SIZES.items() if phase in lessons]
    data = {task: batches(processor, task, SEED.value, phase) for task in taught}
    letters = {task: AXES[task] for task in taught}
    with Progress(phase, total=steps) as progress:
        for number in range(1, steps + 1):
            batch = {task: next(rows) for task, rows in data.items()}
            state, metrics = step(state, sharding.shard(mesh, batch, letters))
            progress.update(number, metrics)
    return state.params


def main(_):
    phases = TAUGHT.value or list(PHASES)
    unknown = [phase for phase in phases if phase not in PHASES]
    if unknown:
        raise app.UsageError(f"--phases={','.join(unknown)}: they are {', '.join(PHASES)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(START.value or temporary)
        if START.value:
            model, params = pretrained.load_pretrained(folder, jnp.float32)
            processor = Processor.from_pretrained(folder)
        else:
            model = VLM(write_folder(folder, corpus(SEED.value)))
            processor = Processor.from_pretrained(folder)
            params = model.init(jax.random.key(SEED.value))
        for phase in phases:
            params = train(model, params, processor, phase)
        half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
        pretrained.save_pretrained(OUT.value, model, half, source=folder)


if __name__ == "__main__":
    app.run(main)
