"""The configuration of a model: its sizes, and the parts that its towers are built from.

It is data alone, and hashable: it is a static argument of compiled programs. A family
(`models/families/`) reads it from a checkpoint's config.json. The parts are classes of
`models/layers.py` and names of activations; nothing here or in the towers knows a family.
"""

import dataclasses

from flax import linen as nn


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower.

    Attributes:
      depth: L, number of blocks.
      width: W, width of the residual stream.
      heads: H.
      mlp_width: F.
      out_width: D, width of the decoder.
      norm: class of the norms, `LayerNorm` or `RMSNorm`, with `norm_eps`.
      mlp: class of the MLPs, `MLP` or `GatedMLP`, with `activation` and `mlp_bias`.
      patch_size: pixels along the side of a patch.
      temporal_patch_size: frames in a patch; a still picture is repeated.
      merge_size: patches along the side of a visual token.
      patch_bias: the embedding of patches has a bias.
      position_side: rows and columns of the learned table of positions; 0 if there is none.
      window_side: patches along the side of a window; 0 if every block sees whole pictures.
      whole_blocks: the blocks that see whole pictures, where others see windows.
      deepstack: the blocks, in ascending order, whose outputs become features of their own
        (https://arxiv.org/abs/2406.04334). The decoder adds the i-th feature after its layer i.
        A tower with windows has none.
    """

    depth: int
    width: int
    heads: int
    mlp_width: int
    out_width: int
    norm: type[nn.Module]
    norm_eps: float
    mlp: type[nn.Module]
    activation: str
    mlp_bias: bool
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    patch_bias: bool = False
    position_side: int = 0
    window_side: int = 0
    whole_blocks: tuple[int, ...] = ()
    deepstack: tuple[int, ...] = ()

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def patch_values(self) -> int:
        """The number of values in one flattened patch (1176 for a patch of 14 x 14 pixels)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_width(self) -> int:
        """The width of the patches of one visual token, side by side."""
        return self.width * self.merge_size**2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder.

    Attributes:
      vocab_size: V.
      width: D, width of the residual stream.
      depth: L, number of layers.
      heads: H.
      kv_heads: K; every H/K query heads share one.
      head_size: C.
      mlp_width: F.
      norm: class of the norms, with `norm_eps`.
      mlp: class of the MLPs, with `activation` and `mlp_bias`.
      qkv_bias: the maps to queries, keys and values have biases.
      qk_norm: queries and keys have norms of their own, over a head.
      rope_theta: base of the rotary frequencies.
      mrope_sections: numbers of frequencies that turn with time, row and column.
      mrope_interleaved: the axes take turns at the frequencies (`models/rotary.py`).
      tied: the output head is the embedding.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_width: int
    norm: type[nn.Module]
    norm_eps: float
    mlp: type[nn.Module]
    activation: str
    mlp_bias: bool
    qkv_bias: bool
    qk_norm: bool
    rope_theta: float
    mrope_sections: tuple[int, int, int]
    mrope_interleaved: bool
    tied: bool


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of ours.

    Attributes:
      path: its path in the tree of parameters.
      name: its Hugging Face name, with `{layer}` if there is one array per layer.
      sizes: the name of each axis's size (`models/table.py: _sizes`), without the axis of layers.
      axes: the logical axes for `parallel/sharding.py`, without the axis of layers.
      transform: from Hugging Face's array to ours: "same", "transpose", or "patches" (flatten a
        convolution's kernel, then transpose).
    """

    path: str
    name: str
    sizes: tuple[str, ...]
    axes: str
    transform: str = "same"

    @property
    def stacked(self) -> bool:
        """True if the array holds all layers of its tower."""
        return "{layer}" in self.name


@dataclasses.dataclass(frozen=True)
class Table:
    """The parameters of a family.

    Attributes:
      entries: all entries, with the names of today's transformers modules.
      released: (prefix of today's names, prefix in the released files) pairs. Reading accepts both.
        Writing uses the released names, which every reader knows.
    """

    entries: tuple[Entry, ...]
    released: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class VLMConfig:
    """Both towers, their parameter table, and the tokens that stand for pictures."""

    vision: VisionConfig
    text: TextConfig
    table: Table = dataclasses.field(repr=False)
    image_token: int
    video_token: int
    vision_start_token: int
    vision_end_token: int
    vision_pad_token: int | None = None  # from the tokenizer, because not every config.json has it

    @property
    def visual_tokens(self) -> tuple[int, ...]:
        """The tokens that only a prompt may hold: they are never sampled."""
        ids = (self.image_token, self.video_token, self.vision_start_token, self.vision_end_token)
        return ids if self.vision_pad_token is None else (*ids, self.vision_pad_token)
