"""Rows of random samples are, token for token, what transformers makes of the same chats.

The reference is its `Qwen2VLProcessor` on the chat as the template renders it with the reply in
place, and torch's `get_rope_index`. A prompt and its target must hold the same tokens, positions
and pixels up to the end of the turn, and the loss must lie on the reply and on that end alone.
Samples come from a seed: every task and paradigm, no picture to three of any shape, texts of many
scripts with odd whitespace and with what looks like a template.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

from rrft_jax.assets import TINY
from rrft_jax.data import (
    PARADIGMS,
    Example,
    Processor,
    Prompts,
    Source,
    messages,
    target,
)
from rrft_jax.tasks import TASKS
from tests.loading import loader_of
from tests.thinking import INSTRUCT

ROWS = 80  # of each tokenizer under each template
MAX_PIXELS = 24 * 28**2
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
CONTROL += ("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")

WORDS = (
    "How many red cubes are there?",
    "Subtract all tiny rubber spheres, then answer",
    "A: 12.5°  B: ½  C: √3  D: −7",
    "change_color(3, 'red')",
    "it's WE'LL they'd a1 b4",
    "1234567890 3.14 1,000",
    "图中有多少个红色的立方体？",
    "左の写真と右の写真を比べてください。",
    "사진을 비교하세요",
    "кубик и шар",
    "كم عدد المكعبات؟",
    "กี่ลูกบาศก์",
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪👍🏽",
    "e\u0301 \u1100\u1161 A\u030a",  # the published tokenizer composes these
    "\u0301\ufb01\u2126",
    "\ufeff\u200b\u2060",
    "\U0001f9ca\U00020000\U000e0041",
    "\ue000 \ue0003\ue001 \uf8ff \ufffd \uffff",
    "\x00\x07\x1b[31m\x1c",
    "<think>one</think><answer>2</answer>",
    "<|im_start <|image_pad| |> <image>",
    "{{ messages }} {% if x %} {# y #} {problem} \\n %s",
)
SPACES = ("", " ", "  ", "\t", "\n", "\n\n\n", "\r\n", "\r", " \n ", "\xa0", "\u3000", "\u2028")

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As published, Qwen2-VL's puts a system prompt first where the chat brings none.
DEFAULT_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
PUBLISHED = "{% if messages[0].role != 'system' %}" + DEFAULT_SYSTEM + "{% endif %}" + PLAIN


class TheirProcessor(Qwen2VLProcessor):
    """Does not insist on the processor of films, which wants torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        return type(argument)


def _published_tokenizer():
    """The tokenizer class of the published checkpoints, with a small vocabulary of its own.

    It learns from half of the words: the others fall apart into bytes.
    """
    text = [space.join(WORDS[::2]) for space in SPACES] * 3
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        [text], vocab_size=600, new_special_tokens=list(CONTROL), show_progress=False
    )
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


@pytest.fixture(
    scope="module",
    params=[
        *((name, template) for name in ("tiny", "published") for template in (PLAIN, PUBLISHED)),
        ("published", INSTRUCT),
    ],
    ids=["tiny", "tiny, default system", "published", "published, default system", "Qwen3-VL"],
)
def folder(request, tmp_path_factory):
    name, template = request.param
    path = tmp_path_factory.mktemp("checkpoint")
    tiny = AutoTokenizer.from_pretrained(TINY)
    tokenizer = tiny if name == "tiny" else _published_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    settings = {"min_pixels": 56**2, "max_pixels": MAX_PIXELS, "patch_size": 14, "merge_size": 2}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def their_processor(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pictures = Qwen2VLImageProcessorPil.from_pretrained(
        folder, size={"shortest_edge": 56**2, "longest_edge": MAX_PIXELS}
    )
    return TheirProcessor(image_processor=pictures, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def theirs(their_processor):
    """`theirs(chats, pictures)`: their arrays of a padded batch, `positions` and `deltas` too."""
    with torch.device("meta"):  # positions need no weights
        sizes = {"text_config": {"num_hidden_layers": 1}, "vision_config": {"depth": 1}}
        model = Qwen2VLModel(Qwen2VLConfig(**sizes))

    def call(chats, pictures):
        inputs = their_processor(
            text=[_rendered(their_processor.tokenizer, chat) for chat in chats],
            images=[picture for row in pictures for picture in row] or None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        grids = inputs.get("image_grid_thw")
        positions, deltas = model.get_rope_index(
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            grids,
            attention_mask=inputs["attention_mask"],
        )
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return arrays | {"positions": positions.numpy(), "deltas": deltas.numpy().reshape(-1)}

    return call


def _rendered(tokenizer, chat):
    """A chat that ends with the question asks for the reply, one with the reply ends its turn."""
    asks = chat[-1]["role"] == "user"
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=asks)
    return text if asks else text.removesuffix("\n")


def _text(random, words=8):
    parts = [
        str(random.choice(kind))
        for _ in range(random.integers(1, words))
        for kind in (SPACES, WORDS)
    ]
    return "".join(parts) + str(random.choice(SPACES))


def _picture(random):
    shape = random.choice(["tiny", "tall", "wide", "usual", "large"])
    short, long = random.integers(1, 30), random.integers(30, 150)
    width, height = {
        "tiny": random.integers(1, 28, 2),
        "tall": (short, short * random.integers(5, 100)),
        "wide": (short * random.integers(5, 100), short),
        "usual": random.integers(30, 150, 2),
        "large": (long * 4, random.integers(200, 500)),
    }[str(shape)]
    noise = random.integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((int(width), int(height)), Image.Resampling.BILINEAR)


def _example(random, index):
    """A sample as a reader gives it: answer and question hold something, the answer is stripped."""
    answers = ("3", "-2.5", "A", "D", "change_size(1, 'small')", _text(random).strip() or "0")
    images, problem = tuple(_picture(random) for _ in range(index % 4)), _text(random)
    inside = random.random() < 0.5  # of the question, or before it
    offsets = sorted(random.integers(0, len(problem) + 1, len(images) if inside else 0))
    return Example(
        id=str(index),
        images=images,
        image_offsets=tuple(map(int, offsets)),
        system=_text(random) if random.random() < 0.2 else "",
        problem=problem,
        answer=str(random.choice(answers)),
        cot=_text(random, 20) if random.random() < 0.8 else None,
        task=list(TASKS)[random.integers(len(TASKS))],
    )


def _replied(chat, reply):
    return [*chat, {"role": "assistant", "content": reply}]


def test_prompts_and_targets_equal_the_whole_chat(processor, theirs):
    random = np.random.default_rng(0)
    for index in range(ROWS):
        example, paradigm = _example(random, index), PARADIGMS[random.integers(len(PARADIGMS))]
        prompts = Prompts(system=_text(random)) if random.random() < 0.3 else Prompts()
        chat = messages(example, paradigm, prompts)
        reply = target(example, paradigm, think=bool(random.random() < 0.8))
        row, completion = processor.encode(chat, example.images), processor.encode_target(reply)

        n = len(row.tokens)
        assert processor.measure(chat, example.images) == (n, len(row.patches))
        asked = theirs([chat], [example.images])
        assert row.tokens.tolist() == asked["input_ids"][0].tolist(), example
        whole = theirs([_replied(chat, reply)], [example.images])
        assert [*row.tokens.tolist(), *completion] == whole["input_ids"][0].tolist(), example
        np.testing.assert_array_equal(row.positions, whole["positions"][:, 0, :n])
        after = row.next_position + np.arange(len(completion))
        np.testing.assert_array_equal([after] * 3, whole["positions"][:, 0, n:])
        if example.images:
            np.testing.assert_array_equal(row.patches, whole["pixel_values"])
            np.testing.assert_array_equal(_grids(row), whole["image_grid_thw"][:, 1:])
        else:
            assert row.patches.shape == (0, 1176)


def _grids(row):
    """Rows and columns of patches of each picture of an unbatched row."""
    pictures = [row.patch_image == number for number in np.unique(row.patch_image)]
    return [row.patch_rows_cols[mine].max(axis=0) + 1 for mine in pictures]


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_batches_equal_theirs_and_the_loss_lies_on_the_reply(processor, theirs, paradigm):
    random = np.random.default_rng(PARADIGMS.index(paradigm))
    examples = [_example(random, index) for index in range(12)]
    prompts = Prompts(system=_text(random)) if paradigm == "reason_rft" else Prompts()
    loader = loader_of(
        [Source(examples, prompts)],
        processor,
        paradigm=paradigm,
        max_prompt_length=4096,
        max_target_length=4096,
    )
    end = processor.encode_target("")
    batches = list(loader)
    seen = [example.id for batch in batches for example in batch.examples]
    assert sorted(seen) == sorted(example.id for example in examples)
    for batch in batches:
        chats = [messages(example, paradigm, prompts) for example in batch.examples]
        pictures = [example.images for example in batch.examples]
        replies = [target(example, paradigm) for example in batch.examples]
        asked = theirs(chats, pictures)
        prompt, (_, length) = batch.prompt, asked["input_ids"].shape
        for ours, their in (
            (prompt.tokens, asked["input_ids"]),
            (prompt.mask, asked["attention_mask"]),
            (prompt.positions, asked["positions"]),
        ):
            np.testing.assert_array_equal(ours[..., -length:], their)
            assert len(np.unique(ours[..., :-length])) <= 1  # more of the same padding
        assert not prompt.mask[:, :-length].any()
        np.testing.assert_array_equal(prompt.next_position, prompt.mask.sum(-1) + asked["deltas"])
        np.testing.assert_array_equal(
            prompt.patches[prompt.patch_image >= 0], asked["pixel_values"]
        )

        whole = theirs([_replied(*pair) for pair in zip(chats, replies)], pictures)
        for b in range(4):
            turn = whole["input_ids"][b][whole["attention_mask"][b] == 1]
            loss = batch.completion_mask[b, 0]
            learned = batch.completions[b, 0][loss]
            np.testing.assert_array_equal(learned, turn[prompt.mask[b].sum() :])
            assert learned[-1:].tolist() == end and loss[: len(learned)].all()
