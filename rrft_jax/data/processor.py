"""Messages and pictures -> one row of a `Prompt`, all in NumPy.

The control tokens of the template and the text of a data set never mix: a text in a question that
looks like a control token is spelt out in ordinary tokens. So a row holds exactly the pictures that
it was given. Everything that depends on a picture's size is decided here.
"""

import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rrft_jax.data.image_processor import ImageProcessor
from rrft_jax.data.pictures import BadSample, image_size, open_image, picture_name
from rrft_jax.data.positions import patch_rows_cols, rope_positions
from rrft_jax.data.shapes import bucket
from rrft_jax.errors import UserError
from rrft_jax.hf import agreement, kinds, pretrained
from rrft_jax.models.families import TITLES
from rrft_jax.models.prompt import Prompt
from rrft_jax.rewards.format import TAGS

_IMAGE = "<|image_pad|>"
_TURN, _END = "<|im_start|>", "<|im_end|>"
_PADDING = "<|endoftext|>"
_LONGEST_CHARACTER = 4  # bytes of UTF-8, so also tokens

# For folders without a template: the turns of these models and nothing else.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Processor:
    """The tokenizer and the image processor of one checkpoint folder; threads may share it.

    Attributes:
      stop_tokens: the ids that end a reply.
      pad_token: the id that fills up rows.
      image_token: the id that stands for one visual token.
      control_tokens: id -> text of the tokens that only a template can write, such as <|im_end|>.
      prompt_end: the last turn of every prompt, as the template writes it: "assistant\\n", or
        "assistant\\n<think>\\n" of a Thinking model.
    """

    def __init__(
        self, tokenizer: Any, image_processor: ImageProcessor, stop_tokens: Sequence[int] = ()
    ):
        """Take the parts that `from_pretrained` loads; `stop_tokens` are the folder's own."""
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        special = {
            token.content: index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special and token.content not in TAGS
        }
        if missing := [token for token in (_IMAGE, _END) if token not in special]:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer has no {' and no '.join(missing)}; "
                f"expected the tokenizer of a {TITLES} checkpoint"
            )
        self._special = special
        control = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
        self._control = re.compile(f"({control})")
        self._masked = re.compile(f"{control}|\ue000")
        self._literals = [*special, "\ue000"]
        # The backend is used directly, with its own settings. The tokenizer around it changes
        # shared settings on every call, which is not safe with threads.
        self._plain = _without_special_tags(tokenizer.backend_tokenizer)
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        self._plain.no_padding()
        self.image_token: int = special[_IMAGE]
        self.control_tokens: dict[int, str] = {index: text for text, index in special.items()}
        ends = [*stop_tokens, special[_END], special.get(_PADDING), tokenizer.eos_token_id]
        self.stop_tokens: tuple[int, ...] = tuple(dict.fromkeys(i for i in ends if i is not None))
        self._values = image_processor.values()
        padding = [tokenizer.pad_token_id, special.get(_PADDING), special[_END]]
        self.pad_token: int = next(i for i in padding if i is not None)
        try:
            probe = self._render([{"role": "user", "content": "?"}])
        except Exception as error:  # A template is a program: it may fail in any way.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{tokenizer.name_or_path}: the chat template fails on a question ({reason:.200}); "
                "give the template that the model was trained with"
            ) from None
        self.prompt_end: str = probe.rpartition(_TURN)[2]

    def __reduce__(self):
        # A worker process makes it anew from its parts: the backend's settings don't travel.
        return type(self), (self._tokenizer, self._image_processor, self.stop_tokens)

    @classmethod
    def from_pretrained(
        cls, path: str, *, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> "Processor":
        """Load the tokenizer and the image processor of a Hugging Face folder.

        Args:
          path: the folder, on a disk or at a URL, or the folder of a run; names on a hub are not
            looked up.
          min_pixels: pictures of fewer pixels are enlarged; None or 0 keeps the folder's limit.
          max_pixels: pictures of more pixels are reduced; None or 0 keeps the folder's limit.

        Raises:
          UserError: a file is missing or broken, or two files or the two limits contradict.
        """
        path = kinds.checkpoint(path)
        folder = pretrained.on_disk(path)
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise UserError(
                f"{path}: no tokenizer; expected tokenizer.json, or vocab.json with merges.txt"
            )
        config = None
        if (folder / "config.json").is_file():
            config, _ = pretrained.read_config(path)
        image_processor = ImageProcessor.from_pretrained(folder, min_pixels, max_pixels)
        agreement.check_pictures(path, folder, config)
        # tokenizer.json is used as it is. The class that a folder names would take only its
        # vocabulary, and split words by its own rules. The imports stand here because they take
        # time, AutoTokenizer's seconds if torch is installed, and most tools need neither.
        if (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast as Tokenizer
        else:
            from transformers import AutoTokenizer as Tokenizer
        try:
            tokenizer = Tokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # A broken file can fail anywhere inside the library.
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: the tokenizer is broken: {reason}") from error
        tokenizer.chat_template = _chat_template(folder, tokenizer.chat_template)
        agreement.check_tokens(path, folder, config, tokenizer)
        return cls(tokenizer, image_processor, pretrained.stop_tokens(path))

    def encode(self, messages: Sequence[Mapping[str, Any]], images: Sequence[Any] = ()) -> Prompt:
        """Return one sample as a `Prompt` without B: tokens [P], positions [3,P], patches [S,.].

        Args:
          messages: a chat; a content is a text, or a list of {"type": "image"} and
            {"type": "text", "text": ...}.
          images: the pictures of the placeholders, in order: paths or PIL images.

        Raises:
          BadSample: a picture cannot be used, or the numbers of placeholders and `images` differ.
        """
        tokens = self._tokens(messages, len(images))
        merge = self._image_processor.merge_size
        patches, grids = self._patches(images)  # grids [I,2]: rows and columns of patches
        repeats = np.ones(len(tokens), np.int64)
        repeats[tokens == self.image_token] = grids.prod(axis=-1) // merge**2
        tokens = np.repeat(tokens, repeats)
        positions, next_position = rope_positions(tokens, grids, merge, self.image_token)
        return Prompt(
            tokens=tokens,
            mask=np.ones(len(tokens), bool),
            positions=positions,
            next_position=next_position,
            patches=patches,
            patch_rows_cols=np.concatenate(
                [np.zeros((0, 2), np.int32), *(patch_rows_cols(*grid, merge) for grid in grids)]
            ),
            patch_image=np.repeat(np.arange(len(grids), dtype=np.int32), grids.prod(axis=-1)),
        )

    def measure(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Any] = ()
    ) -> tuple[int, int]:
        """Return the numbers of tokens and patches that `encode` would give, without decoding.

        Raises:
          BadSample: as `encode`, except for errors that only the pixels show.
        """
        tokens = len(self._tokens(messages, len(images)))
        patches = sum(self._count_patches(image) for image in images)
        return tokens - len(images) + patches // self._image_processor.merge_size**2, patches

    def prompt_text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the chat as the template writes it, for people: one placeholder per picture."""
        return self._unmask(self._render(messages))

    def encode_target(self, text: str) -> list[int]:
        """Return the tokens of a whole reply, with its end-of-turn token."""
        return [*self._tokenize(text), self._special[_END]]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of any token ids, without control tokens but with the tags."""
        return self._plain.decode([int(token) for token in tokens], skip_special_tokens=True)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return the text of each token, control tokens too; together they are the whole text.

        If several tokens share a character's bytes, the last of them has the character, and the
        others are empty.
        """
        tokens = [int(token) for token in tokens]
        texts, start = [""] * len(tokens), 0
        for end, token in enumerate(tokens, 1):
            if token in self.control_tokens:
                texts[end - 1], start = self.control_tokens[token], end
                continue
            text = self.decode(tokens[start:end])
            broken = text.endswith("\ufffd") and end - start < _LONGEST_CHARACTER
            if not broken or end == len(tokens) or tokens[end] in self.control_tokens:
                texts[end - 1], start = text, end
        return texts

    def pictures(self, prompt: Prompt) -> list[Image.Image]:
        """Return the pictures of a row without B, rebuilt from its patches, in 8 bits."""
        process, side = self._image_processor, self._image_processor.patch_size
        pictures = []
        for number in range(int(np.max(prompt.patch_image, initial=-1)) + 1):
            mine = prompt.patch_image == number
            rows, cols = prompt.patch_rows_cols[mine].T
            shape = (-1, 3, process.temporal_patch_size, side, side)
            squares = np.empty((rows.max() + 1, cols.max() + 1, side, side, 3), np.float32)
            squares[rows, cols] = np.moveaxis(prompt.patches[mine].reshape(shape)[:, :, 0], 1, -1)
            pixels = squares.swapaxes(1, 2).reshape(len(squares) * side, -1, 3)
            pictures.append(process.picture(pixels))
        return pictures

    def batch(
        self,
        rows: Sequence[Prompt],
        prompt_length: int | None = None,
        num_patches: int | None = None,
    ) -> Prompt:
        """Stack rows; pad their tokens on the left and their patches on the right.

        Args:
          rows: at least one row from `encode`.
          prompt_length: P; by default the bucket of the longest row.
          num_patches: S; by default the bucket of the row with the most patches.
        """
        longest = max(len(row.tokens) for row in rows)
        most = max(len(row.patches) for row in rows)
        length = bucket(longest) if prompt_length is None else prompt_length
        count = bucket(most) if num_patches is None else num_patches
        if longest > length or most > count:
            raise ValueError(f"{longest} tokens, {most} patches do not fit {length} and {count}")

        def blank(fill, *shape, dtype=np.int32):
            return np.full((len(rows), *shape), fill, dtype)

        batch = Prompt(
            tokens=blank(self.pad_token, length),
            mask=blank(False, length, dtype=bool),
            positions=np.zeros((3, len(rows), length), np.int32),
            next_position=np.array([row.next_position for row in rows], np.int32),
            # Zeros, because the system gives empty pages only when written: this is nearly all
            # of a batch's memory.
            patches=np.zeros((len(rows), count, rows[0].patches.shape[-1]), np.float32),
            patch_rows_cols=blank(0, count, 2),
            patch_image=blank(-1, count),
        )
        for b, row in enumerate(rows):
            start, end = length - len(row.tokens), len(row.patches)
            batch.tokens[b, start:] = row.tokens
            batch.mask[b, start:] = row.mask
            batch.positions[:, b, start:] = row.positions
            batch.patches[b, :end] = row.patches
            batch.patch_rows_cols[b, :end] = row.patch_rows_cols
            batch.patch_image[b, :end] = row.patch_image
        return batch

    def _tokens(self, messages: Sequence[Mapping[str, Any]], images: int) -> np.ndarray:
        """Return the chat's tokens, [P] int32, with one placeholder per picture."""
        tokens = []
        for piece in self._control.split(self._render(messages)):
            if piece in self._special:
                tokens.append(self._special[piece])
            elif piece:
                tokens += self._tokenize(self._unmask(piece))
        placeholders = tokens.count(self.image_token)
        if placeholders != images:
            raise BadSample(
                "malformed", f"{placeholders} picture placeholders for {images} pictures"
            )
        return np.array(tokens, np.int32)

    def _tokenize(self, text: str) -> list[int]:
        try:
            return self._plain.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeError) as error:  # Half a surrogate pair, which JSON can spell.
            raise BadSample("malformed", f"a text that is not Unicode: {text!r:.60}") from error

    def _render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the chat as text; only the template's own control tokens are left in it."""
        masked = []
        for message in messages:
            content = message["content"]
            if isinstance(content, str):
                content = self._mask(content)
            else:
                content = [
                    {**part, "text": self._mask(part["text"])} if "text" in part else part
                    for part in content
                ]
            masked.append({**message, "content": content})
        return self._tokenizer.apply_chat_template(
            masked, tokenize=False, add_generation_prompt=True
        )

    def _mask(self, text: str) -> str:
        """Replace each control token by its number between two private-use characters."""
        return self._masked.sub(lambda m: f"\ue000{self._literals.index(m[0])}\ue001", text)

    def _unmask(self, text: str) -> str:
        def literal(match):
            number = int(match[1])
            return self._literals[number] if number < len(self._literals) else match[0]

        return re.sub("\ue000([0-9]{1,4})\ue001", literal, text)

    def _count_patches(self, image: Any) -> int:
        try:
            pixels = math.prod(self._image_processor.size(*image_size(image)))
        except ValueError as error:
            raise BadSample("picture", f"{picture_name(image)}: {error}") from error
        return pixels // self._image_processor.patch_size**2

    def _patches(self, images: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the patches of all pictures [S,.], and each one's rows and columns [I,2]."""
        process = self._image_processor
        merge, side, frames = process.merge_size, process.patch_size, process.temporal_patch_size
        patches = [np.zeros((0, 3 * frames * side**2), np.float32)]
        grids = [np.zeros((0, 2), np.int32)]
        for image in images:
            opened = open_image(image)
            try:
                pixels = process.levels(opened)
            except Exception as error:  # Pillow refuses some conversions.
                raise BadSample("picture", f"{picture_name(image)}: {error}") from error
            rows, cols = pixels.shape[0] // side, pixels.shape[1] // side
            squares = pixels.reshape(rows // merge, merge, side, cols // merge, merge, side, 3)
            levels = squares.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * cols, 3, 1, side**2)
            # A patch holds a still picture twice, like two frames of a film.
            values = np.empty((rows * cols, 3, frames, side**2), np.float32)
            for channel, table in enumerate(self._values):
                values[:, channel] = table.take(levels[:, channel])
            patches.append(values.reshape(rows * cols, -1))
            grids.append(np.array([[rows, cols]], np.int32))
        return (patches[1] if len(images) == 1 else np.concatenate(patches)), np.concatenate(grids)


def _without_special_tags(backend: Any) -> Any:
    """Return a copy of the tokenizer in which the tags of an answer are no control tokens.

    Some folders have the tags as special tokens. In the copy a tag is still one token, but a part
    of the text: a text can spell it, and decoding keeps it.
    """
    written = json.loads(backend.to_str())
    for token in written["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in TAGS
    return type(backend).from_str(json.dumps(written))


def _chat_template(folder: pathlib.Path, of_tokenizer: Any) -> Any:
    """Return the template of a folder, by the precedence of transformers' processors.

    The template of the processor comes first, because the tokenizer's may know of no pictures.
    """
    files = (agreement.PROCESSOR, "chat_template.json")
    stated = (pretrained.read_json(folder / file).get("chat_template") for file in files)
    return next(filter(None, stated), of_tokenizer) or CHAT_TEMPLATE
