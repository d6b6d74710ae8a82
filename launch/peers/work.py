"""The work that both sides do: a checkpoint, pictures, a question, sizes.

`compare.py` writes it as a folder by this package's own means. The measured programs read it.
"""

import dataclasses
import json
import pathlib

PROMPTS = {"grpo": 4, "grpo_text": 4, "sampling": 4, "sft": 8}
PROMPT_TOKENS, TARGET_TOKENS = 293, 66
SENTENCE = "How many cubes are left after removing all the small red ones ? "


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step does.

    Attributes:
      name: "grpo" (sampling, reference, update), "grpo_text" (the same without pictures),
        "sampling", or "sft" (update).
      checkpoint: the folder of the model, float32.
      prompts: the number of prompts.
      pictures: a picture file for each prompt; none in "grpo_text".
      question: the text of every prompt, after its picture.
      target: the text that SFT trains on.
      samples: the completions per prompt, G.
      new_tokens: the tokens of each completion, whatever the model draws.
      banned: tokens that are never drawn, because they stand for pictures.
      beta: the weight of the KL penalty.
      learning_rate: AdamW's.
      turns: the steps, the warming one included.
      threads: the threads of a side.
    """

    name: str
    checkpoint: str
    prompts: int
    pictures: list[str]
    question: str
    target: str
    banned: list[int]
    turns: int
    threads: int
    samples: int = 8
    new_tokens: int = 64
    beta: float = 0.04
    learning_rate: float = 1e-6

    @property
    def chat(self) -> list[dict]:
        """The messages of a prompt."""
        picture = [{"type": "image"}] if self.pictures else []
        content = [*picture, {"type": "text", "text": self.question}]
        return [{"role": "user", "content": content}]


def reward(text: str) -> float:
    """Return the number of different characters of a completion, so that rewards differ."""
    return float(len(set(text)))


def read(folder: str) -> Work:
    """Return the work of a folder."""
    return Work(**json.loads((pathlib.Path(folder) / "work.json").read_text()))


def write(folder: str, name: str, turns: int, threads: int) -> Work:
    """Write the folder, which must be empty, and return the work."""
    import numpy as np
    from PIL import Image

    from rrft_jax.bench import checkpoint
    from rrft_jax.data import Processor
    from rrft_jax.hf.pretrained import read_config

    path = pathlib.Path(folder)
    model = str(path / "checkpoint")
    checkpoint.write_checkpoint(model, "qwen2_vl", "small", "float32", 0, 5_000_000_000)
    config, _ = read_config(model)
    pictures = []
    for number in range(0 if name == "grpo_text" else PROMPTS[name]):
        pictures.append(str(path / f"{number}.png"))
        values = np.random.default_rng(number).integers(0, 256, (320, 480, 3), np.uint8)
        Image.fromarray(values).save(pictures[-1])
    processor = Processor.from_pretrained(model)
    work = Work(
        name=name,
        checkpoint=model,
        prompts=PROMPTS[name],
        pictures=pictures,
        question="",
        target="",
        banned=[config.image_token, config.video_token],
        turns=turns,
        threads=threads,
    )
    bare = processor.encode(work.chat, pictures[:1]).tokens.size
    work = dataclasses.replace(
        work,
        question=_text(processor, PROMPT_TOKENS - bare),
        target=_text(processor, TARGET_TOKENS - len(processor.encode_target(""))),
    )
    (path / "work.json").write_text(json.dumps(dataclasses.asdict(work)))
    return work


def _text(processor, tokens: int) -> str:
    """Return a text of so many tokens."""
    end = len(processor.encode_target(""))
    of_sentence = len(processor.encode_target(SENTENCE)) - end
    text = SENTENCE * (tokens // of_sentence + 2)
    while len(processor.encode_target(text)) - end > tokens:
        text = text[:-1]
    return text
