"""Builds the tiny base checkpoint: a 1.5 M Qwen2-VL that perceives drawn scenes, and no more.

    python -m rrft_jax.pretrain --out=rrft_jax/assets/tiny

A released Qwen2-VL comes pretrained too; without that, reinforcement has nothing to choose from.
The base learns to caption scenes of every shape and colour, to number what fits a description, to
answer questions of one step, and to add small numbers. It never sees a chain of thought, a removal
or an addition, the <think> tags, or a picture of the splits that training and evaluation draw.

Several short conversations share each picture: they are the group of completions of `score`. Beside
them, each visual token is asked for the words of its own cell, through the embedding of the words:
without that, a model of this size takes thousands of steps to find that the picture matters.
"""

import dataclasses
import json
import pathlib
import tempfile

import flax
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from absl import app, flags

from rrft_jax.data import prompts
from rrft_jax.data.drawn import TINY_SIZE, counting
from rrft_jax.data.processor import CHAT_TEMPLATE, Processor
from rrft_jax.models import pretrained
from rrft_jax.models.config import Qwen2VLConfig
from rrft_jax.models.qwen2_vl import Qwen2VL
from rrft_jax.monitoring import Progress
from rrft_jax.parallel import mesh as meshes
from rrft_jax.parallel import sharding
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import sft
from rrft_jax.training import state as states

OUT = flags.DEFINE_string("out", None, "folder for the checkpoint", required=True)
START = flags.DEFINE_string("start", None, "what the first phase ended with: skips it")
SCENES = flags.DEFINE_integer("scenes", 16, "pictures a step")
SEED = flags.DEFINE_integer("seed", 1, "of weights and pictures")

VOCABULARY = 512
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Cells, words, digits, punctuation with what follows it, line breaks: as Qwen2's tokenizer splits,
# but for the cells.
WORDS = (
    r" ?[a-d][1-4]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OPTIMIZER = dict(
    learning_rate=1e-3,
    schedule="cosine",
    warmup_steps=200,
    clip_norm=1.0,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.02,
)
# Steps of the phases: first the whole model learns to see, then the decoder learns to answer.
PHASES = {"perceive": 1200, "answer": 1600}
STREAM = 7  # no split of counting.SPLITS draws from this stream


def conversations(rng: np.random.Generator, scene: counting.Scene, phase: str, progress: float):
    """Lists of (question, answer) about a scene, of the phase "perceive" or "answer".

    `progress` is the share of the phase that is over. Numbering of what does *not* fit comes late:
    with both kinds from the start, neither is learnt, for on average an object that fits is then
    numbered as often as not.
    """
    caption = ("Describe the picture.", _listing(scene.placed))
    if phase == "perceive":
        return [[caption], [_number(rng, scene)] if rng.random() < 0.4 else _short(rng, scene)]
    # Several questions about one picture: only the question tells their answers apart.
    inverse = 0.5 if progress > 0.4 else 0.0
    last = [caption] if rng.random() < 0.25 else _short(rng, scene)
    return [*([_number(rng, scene, inverse)] for _ in range(3)), last]


def _number(
    rng: np.random.Generator, scene: counting.Scene, inverse: float = 0.0
) -> tuple[str, str]:
    """What fits a description, numbered, or, with probability `inverse`, all that doesn't."""
    about = counting.description(rng, scene.things, counting.EVERYTHING)
    removes = rng.random() < inverse
    numbered, _ = counting.number(scene, about, removes)
    return f"Number {'everything but' if removes else 'all'} {about.plural}.", f"{numbered}."


def _short(rng: np.random.Generator, scene: counting.Scene) -> list[tuple[str, str]]:
    """A count, two additions, and a look at one cell."""
    return [_count(rng, scene), _add(rng), _add(rng), _look(rng, scene)]


def _add(rng: np.random.Generator) -> tuple[str, str]:
    a, b = rng.integers(0, 12), rng.integers(0, 5)
    return f"What is {a}+{b}?", str(a + b)


def _look(rng: np.random.Generator, scene: counting.Scene) -> tuple[str, str]:
    """What stands in a cell, which is empty now and then."""
    cell = counting.cell_name(rng.integers(counting.GRID**2))
    if rng.random() < 0.7:
        cell = scene.cells[rng.integers(len(scene.cells))]
    return f"What is at {cell}?", f"{dict(scene.placed).get(cell, 'nothing')}."


def _count(rng: np.random.Generator, scene: counting.Scene) -> tuple[str, str]:
    counted = counting.description(rng, scene.things, counting.EVERYTHING)
    number = sum(counted.covers(thing) for thing in scene.things)
    return f"How many {counted.plural} are there?", str(number)


def _listing(placed: list[tuple[str, counting.Thing]]) -> str:
    return (", ".join(f"{cell} {thing}" for cell, thing in placed) or "nothing") + "."


def write_folder(folder: pathlib.Path, seed: int) -> Qwen2VLConfig:
    """Writes config.json, tokenizer and preprocessor files; returns the config."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), behavior="isolated"), byte_level]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(seed), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    ends = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    raw = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen2_vl_text",
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 6, 6],
            },
            **ends,
        },
        "vision_config": {
            "model_type": "qwen2_vl_vision",
            "depth": 3,
            "embed_dim": 96,
            "num_heads": 4,
            "mlp_ratio": 4,
            "hidden_size": 128,
            "hidden_act": "quick_gelu",
            "in_channels": 3,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
        },
    }
    stops = {**ends, "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]}
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 56 * 56,
        "max_pixels": 480 * 480,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    for name, content in (
        ("config.json", raw),
        ("generation_config.json", stops),
        ("preprocessor_config.json", preprocessor),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return Qwen2VLConfig.from_dict(raw)


def _corpus(seed: int):
    """What the tokenizer is made from: the texts of the base, and those of its later training."""
    for i in range(2000):
        rng = np.random.default_rng([seed, STREAM, i])
        for conversation in conversations(rng, _scene(rng, "perceive"), "perceive", 0):
            yield from (f"{question}\n{answer}" for question, answer in conversation)
        for split in ("train", "ood"):
            example = counting.sample(split, seed, i, 28)
            yield f"user\n{prompts.messages(example, 'reason_rft')[0]['content'][-1]['text']}"
            yield f"assistant\n{prompts.target(example, 'reason_rft')}"


def _scene(rng: np.random.Generator, phase: str) -> counting.Scene:
    """Every colour and shape to see them; three of each, mostly, to tell what fits and what not.

    With ten colours few objects have the one that is asked for, and a model that says "no" to all
    of them stays at that for a thousand steps.
    """
    vocabulary = counting.EVERYTHING
    if phase == "answer" and rng.random() < 0.8:
        some = {
            name: tuple(rng.choice(getattr(vocabulary, name), 3, replace=False).tolist())
            for name in ("colours", "shapes")
        }
        vocabulary = dataclasses.replace(vocabulary, **some)
    return counting.draw_scene(rng, vocabulary, TINY_SIZE)


@flax.struct.dataclass
class Batch:
    """Conversations about pictures, and `words` [B,N,4] that each visual token should name."""

    texts: sft.SFTBatch
    words: jax.Array


LETTERS = Batch(texts=sft.LETTERS, words="BN.")


def make_step(model: Qwen2VL, optimizer: optax.GradientTransformation, layout: states.TrainState):
    """The jitted step: (state, batch) -> (state, metrics)."""

    def loss(params: dict, batch: Batch):
        texts, _ = sft.loss(model, params, batch.texts, batch.texts.mask.sum())
        visual = model.encode_images(params, batch.texts.prompt)
        logits = visual @ params["language"]["embed"]["embedding"].T
        named = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.words, axis=-1)
        return texts - named.mean(), {"texts": texts}

    def step(state: states.TrainState, batch: Batch):
        micro = sharding.micro_batches(batch, LETTERS, 1)
        return states.update(state, optimizer, "", loss, micro)

    return jax.jit(step, donate_argnums=0, out_shardings=(layout, None))


def batches(processor: Processor, config: Qwen2VLConfig, seed: int, phase: str, scenes: int):
    """A grain iterator of Batch: one picture a row, two conversations as its group."""
    length, rows = 88, PHASES[phase] * scenes

    def plain(text: str) -> list[int]:
        return processor.encode_target(text)[:-1]

    # An empty question has all the tokens between the texts: user turn, its end, assistant turn.
    around = processor.encode([{"role": "user", "content": ""}]).tokens.tolist()
    end = around.index(processor.stop_tokens[0])
    again, turn = [*plain("\n"), *around[:end]], around[end:]

    def row(index: int) -> Batch:
        rng = np.random.default_rng([seed, STREAM, list(PHASES).index(phase), index])
        scene = _scene(rng, phase)
        # Up to its picture the prompt is shared; the question comes with each text, unweighted.
        chat = [{"role": "user", "content": [{"type": "image"}]}]
        prompt = processor.encode(chat, [scene.image])
        end = int(np.flatnonzero(prompt.tokens == config.vision_end_token)[0]) + 1
        prompt = prompt.replace(
            tokens=prompt.tokens[:end],
            mask=prompt.mask[:end],
            positions=prompt.positions[:, :end],
            next_position=prompt.positions[0, end - 1] + 1,
        )
        texts = conversations(rng, scene, phase, index / rows)
        tokens = np.full((len(texts), length), processor.pad_token, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for i, conversation in enumerate(texts):
            text, answers = [], []
            for question, answer in conversation:
                asked = [*(again if text else ()), *plain(question), *turn]
                answered = processor.encode_target(answer)
                text += [*asked, *answered]
                answers += [False] * len(asked) + [True] * len(answered)
            tokens[i, : len(text)] = text[:length]
            mask[i, : len(text)] = answers[:length]
        return Batch(sft.SFTBatch(prompt, tokens, mask), np.array(words(scene), np.int32))

    def words(scene: counting.Scene) -> list[list[int]]:
        placed = dict(scene.placed)
        cells = map(counting.cell_name, range(counting.GRID**2))
        # An empty cell has nothing to name but itself.
        return [plain(f" {c} {placed[c]}" if c in placed else f" {c}" * 4) for c in cells]

    def batch(parts: list[Batch]) -> Batch:
        texts = [part.texts for part in parts]
        return Batch(
            sft.SFTBatch(
                processor.batch([t.prompt for t in texts], prompt_length=24),
                np.stack([t.completions for t in texts]),
                np.stack([t.mask for t in texts]),
            ),
            np.stack([part.words for part in parts]),
        )

    data = grain.MapDataset.range(rows).map(row).batch(scenes, batch_fn=batch)
    return data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))


def train(model: Qwen2VL, params: dict, processor: Processor, phase: str) -> dict:
    """One phase; `params` are consumed, those after it are returned."""
    mesh, steps = meshes.make_mesh(), PHASES[phase]
    freeze = "" if phase == "perceive" else "vision/.*"
    optimizer = optimizers.make_optimizer(ml_collections.ConfigDict(OPTIMIZER), steps)
    params = jax.device_put(params, sharding.replicated(mesh))
    state = states.create(params, optimizer, freeze, mesh)
    layout = states.layout(state)
    if phase == "perceive":
        step, letters = make_step(model, optimizer, layout), LETTERS
    else:
        step, letters = sft.make_step(model, optimizer, freeze, 1, layout), sft.LETTERS
    data = batches(processor, model.config, SEED.value, phase, SCENES.value)
    with Progress(phase, total=steps) as progress:
        for number, batch in enumerate(data, 1):
            batch = batch if phase == "perceive" else batch.texts
            state, metrics = step(state, sharding.place(mesh, batch, letters))
            progress.update(number, {k: metrics[k] for k in ("loss", "texts") if k in metrics})
    return state.params


def main(_):
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(START.value or temporary)
        if START.value:
            model, params = pretrained.load_pretrained(folder, jnp.float32)
            processor = Processor.from_pretrained(folder)
        else:
            model = Qwen2VL(write_folder(folder, SEED.value))
            processor = Processor.from_pretrained(folder)
            params = train(model, model.init(jax.random.key(SEED.value)), processor, "perceive")
        params = train(model, params, processor, "answer")
        half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
        pretrained.save_pretrained(OUT.value, model, half, source=folder)


if __name__ == "__main__":
    app.run(main)
