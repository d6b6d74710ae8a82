"""What the programs of a Qwen2-VL must cost, counted by hand: operations and bytes of all devices.

An operation is one of a matrix product. Norms, softmax and sampling have none.
"""

import dataclasses

from rrft_jax.data.shapes import Shape
from rrft_jax.models.config import TextConfig, VisionConfig, VLMConfig


def layer_weights(text: TextConfig) -> int:
    """Return the number of weights of a layer's products."""
    heads = text.width * text.head_size * (2 * text.heads + 2 * text.kv_heads)
    return heads + 3 * text.width * text.mlp_width


def block_weights(vision: VisionConfig) -> int:
    """Return the same of a block of the vision tower."""
    return 4 * vision.width**2 + 2 * vision.width * vision.mlp_width


def patch_weights(vision: VisionConfig) -> int:
    """Return the number of weights of the embedding of patches."""
    return vision.patch_values * vision.width


def merger_weights(vision: VisionConfig) -> int:
    """Return the number of weights that make visual tokens of patches."""
    return vision.merged_width * (vision.merged_width + vision.out_width)


@dataclasses.dataclass(frozen=True)
class Flops:
    """The operations of a batch of prompts, each with a group of completions.

    Attributes:
      sizes: the model's sizes.
      shape: the lengths of each prompt.
      prompts: the number of prompts.
      group: the completions of a prompt.
      length: their tokens.
      backward: the products of an attention backwards: 5 by cuDNN, 7 by splash attention, whose two
        kernels compute the scores and the gradient of the weights each.
    """

    sizes: VLMConfig
    shape: Shape
    prompts: int
    group: int
    length: int
    backward: int = 5

    @property
    def prefill(self) -> float:
        """All patches and prompts, once forwards."""
        tokens = self.prompts * self.shape.prompt
        return self._vision + self._layers(tokens) + self._prompt_attention

    @property
    def decode(self) -> float:
        """Each token of the completions on its own, over the whole caches."""
        tokens = self.prompts * self.group * self.length
        pairs = tokens * (self.shape.prompt + self.length)
        return self._layers(tokens) + self._head + self._attention(pairs)

    @property
    def score(self) -> float:
        """Everything once forwards."""
        return self._vision + self._layers(self._tokens) + self._head + self._all_attention

    @property
    def sft(self) -> float:
        """Forwards and backwards, with a frozen vision tower."""
        return self._vision + self._trained

    @property
    def update(self) -> float:
        """Forwards and backwards."""
        vision = self.sizes.vision
        # Patches have no gradient.
        ends = 2 * self._patches + 3 * self._merger
        mlp = 2 * self._all_patches * vision.width * vision.mlp_width * vision.depth
        return self._trained + ends + 4 * self._blocks - mlp + self._passes * self._vision_attention

    @property
    def _trained(self) -> float:
        """The decoder, with layers and logits recomputed.

        A layer's last product isn't recomputed: only its result needs it.
        """
        text = self.sizes.text
        last = 2 * self._tokens * text.width * text.mlp_width * text.depth
        layers = 4 * self._layers(self._tokens) - last
        return layers + 4 * self._head + self._passes * self._all_attention

    @property
    def _passes(self) -> float:
        """An attention's forward passes in training: itself, recomputed, and the backward pass."""
        return (2 + 2 + self.backward) / 2

    @property
    def _tokens(self) -> int:
        return self.prompts * (self.shape.prompt + self.group * self.length)

    @property
    def _all_patches(self) -> int:
        return self.prompts * self.shape.patches

    @property
    def _vision(self) -> float:
        return self._patches + self._blocks + self._merger + self._vision_attention

    @property
    def _patches(self) -> float:
        return 2.0 * self._all_patches * patch_weights(self.sizes.vision)

    @property
    def _blocks(self) -> float:
        vision = self.sizes.vision
        return 2.0 * self._all_patches * vision.depth * block_weights(vision)

    @property
    def _merger(self) -> float:
        visual = self._all_patches // self.sizes.vision.merge_size**2
        return 2.0 * visual * merger_weights(self.sizes.vision)

    @property
    def _vision_attention(self) -> float:
        vision, pairs = self.sizes.vision, self._all_patches * self.shape.patches
        return 4.0 * pairs * vision.width * vision.depth

    def _layers(self, tokens: int) -> float:
        return 2.0 * tokens * self.sizes.text.depth * layer_weights(self.sizes.text)

    @property
    def _head(self) -> float:
        tokens = self.prompts * self.group * self.length
        return 2.0 * tokens * self.sizes.text.width * self.sizes.text.vocab_size

    def _attention(self, pairs: int) -> float:
        text = self.sizes.text
        return 4.0 * pairs * text.heads * text.head_size * text.depth

    @property
    def _prompt_attention(self) -> float:
        return self._attention(self.prompts * self.shape.prompt**2)

    @property
    def _all_attention(self) -> float:
        own = self.length * (self.shape.prompt + self.length)
        return self._prompt_attention + self._attention(self.prompts * self.group * own)


def gathered_bytes(sizes: VLMConfig) -> float:
    """Return the bytes of all weights in bfloat16 but the embedding's, as a device gathers them."""
    text, vision = sizes.text, sizes.vision
    layers = text.depth * layer_weights(text) + vision.depth * block_weights(vision)
    return 2.0 * (layers + patch_weights(vision) + merger_weights(vision))


def decoding_bytes(sizes: VLMConfig, shape: Shape, prompts: int, sequences: int, room: int):
    """Return the bytes that a device reads for a token of its sequences: weights and caches."""
    text = sizes.text
    weights = text.depth * layer_weights(text) + text.vocab_size * text.width
    tokens = prompts * shape.prompt + sequences * room
    cache = 2 * text.depth * text.kv_heads * text.head_size * tokens
    return 2.0 * (weights + cache)
