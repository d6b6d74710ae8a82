"""THE table of parameters: our path <-> Hugging Face name, how the array turns, where it is split.

Import, export, expected shapes and sharding are all read off `TABLE`. One entry is one array of
ours; where its Hugging Face name holds `{layer}`, all layers of the tower are stacked on axis 0.
Hugging Face writes a linear map [out,in], we write it [in,out]; the patch embedding is a Conv3d
there and a matrix over flattened patches here.
"""

import dataclasses

import jax
import numpy as np
from flax import traverse_util

from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel import sharding

HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of ours.

    sizes: name of the size (see `_sizes`) of each axis; letters: the same axes for
    `parallel.sharding`; transform: "same", "transpose", or "patches" (flatten a kernel, transpose).
    Both leave out the axis of layers.
    """

    path: str
    name: str
    sizes: tuple[str, ...]
    letters: str
    transform: str = "same"

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.name


def _linear(path: str, name: str, sizes: str, letters: str, bias: bool = True) -> list[Entry]:
    """A linear map; sizes and letters are those of (in, out)."""
    sizes = tuple(sizes.split())
    entries = [Entry(f"{path}/kernel", f"{name}.weight", sizes, letters, "transpose")]
    if bias:  # split with the outputs that it is added to, whole where those are the residual
        split = letters[1] if letters[1] != "D" else "."
        entries.append(Entry(f"{path}/bias", f"{name}.bias", sizes[1:], split))
    return entries


def _norm(path: str, name: str, size: str, bias: bool = True) -> list[Entry]:
    scale = Entry(f"{path}/scale", f"{name}.weight", (size,), ".")
    return [scale, Entry(f"{path}/bias", f"{name}.bias", (size,), ".")] if bias else [scale]


_BLOCK, _LAYER = "model.visual.blocks.{layer}", "model.language_model.layers.{layer}"
_ATTENTION, _MLP = f"{_LAYER}.self_attn", f"{_LAYER}.mlp"

TABLE: tuple[Entry, ...] = (
    Entry(
        "vision/patch_embed/kernel",
        "model.visual.patch_embed.proj.weight",
        ("patch", "W"),
        ".D",
        "patches",
    ),
    *_norm("vision/blocks/norm1", f"{_BLOCK}.norm1", "W"),
    *_linear("vision/blocks/qkv", f"{_BLOCK}.attn.qkv", "W 3W", "DH"),
    *_linear("vision/blocks/proj", f"{_BLOCK}.attn.proj", "W W", "HD"),
    *_norm("vision/blocks/norm2", f"{_BLOCK}.norm2", "W"),
    *_linear("vision/blocks/fc1", f"{_BLOCK}.mlp.fc1", "W F", "DF"),
    *_linear("vision/blocks/fc2", f"{_BLOCK}.mlp.fc2", "F W", "FD"),
    *_norm("vision/merger/norm", "model.visual.merger.ln_q", "W"),
    *_linear("vision/merger/fc1", "model.visual.merger.mlp.0", "merged merged", "DF"),
    *_linear("vision/merger/fc2", "model.visual.merger.mlp.2", "merged D", "FD"),
    Entry("language/embed/embedding", "model.language_model.embed_tokens.weight", ("V", "D"), "VD"),
    *_norm("language/layers/input_norm", f"{_LAYER}.input_layernorm", "D", bias=False),
    *_linear("language/layers/q", f"{_ATTENTION}.q_proj", "D HC", "DH"),
    *_linear("language/layers/k", f"{_ATTENTION}.k_proj", "D KC", "DK"),
    *_linear("language/layers/v", f"{_ATTENTION}.v_proj", "D KC", "DK"),
    *_linear("language/layers/o", f"{_ATTENTION}.o_proj", "HC D", "HD", bias=False),
    *_norm("language/layers/post_norm", f"{_LAYER}.post_attention_layernorm", "D", bias=False),
    *_linear("language/layers/gate", f"{_MLP}.gate_proj", "D F", "DF", bias=False),
    *_linear("language/layers/up", f"{_MLP}.up_proj", "D F", "DF", bias=False),
    *_linear("language/layers/down", f"{_MLP}.down_proj", "F D", "FD", bias=False),
    *_norm("language/norm", "model.language_model.norm", "D", bias=False),
    Entry("language/head/kernel", HEAD, ("D", "V"), "DV", "transpose"),  # untied only
)

# Weight names of today's transformers modules, and those of the released files.
_NAMES = (
    ("model.visual.", "visual."),
    ("model.language_model.layers.", "model.layers."),
    ("model.language_model.embed_tokens.", "model.embed_tokens."),
    ("model.language_model.norm.", "model.norm."),
)


def import_name(name: str) -> str:
    """Today's spelling (that of `TABLE`) of a Hugging Face name in either spelling."""
    for today, released in _NAMES:
        if name.startswith(released):
            return today + name.removeprefix(released)
    return name


def export_name(name: str) -> str:
    """The released files' spelling of a name in today's spelling; every reader knows that one."""
    for today, released in _NAMES:
        if name.startswith(today):
            return released + name.removeprefix(today)
    return name


def entries(config: VLMConfig) -> tuple[Entry, ...]:
    """The table for this model: one whose head is tied has no head of its own."""
    return tuple(e for e in TABLE if not (config.text.tied and e.name == HEAD))


def names(entry: Entry, config: VLMConfig) -> list[str]:
    """The Hugging Face names that the entry is made of, layer by layer."""
    if not entry.stacked:
        return [entry.name]
    return [entry.name.format(layer=layer) for layer in range(_tower(entry, config).depth)]


def letters(entry: Entry) -> str:
    """Axis letters of our array, layers included."""
    return "L" * entry.stacked + entry.letters


def shape(entry: Entry, config: VLMConfig) -> tuple[int, ...]:
    """Shape of our array, layers included."""
    sizes = _sizes(entry, config)
    layers = (_tower(entry, config).depth,) if entry.stacked else ()
    return layers + tuple(sizes[size] for size in entry.sizes)


def hf_shape(entry: Entry, config: VLMConfig) -> tuple[int, ...]:
    """Shape of one Hugging Face array of the entry."""
    one = shape(entry, config)[entry.stacked :]
    if entry.transform == "patches":
        v = config.vision
        return (one[1], v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    return one[::-1] if entry.transform == "transpose" else one


def from_hf(entry: Entry, array: np.ndarray) -> np.ndarray:
    """One layer of ours, a view where possible, from one Hugging Face array."""
    if entry.transform == "patches":
        array = array.reshape(len(array), -1)
    return array if entry.transform == "same" else array.T


def to_hf(entry: Entry, array: np.ndarray, config: VLMConfig) -> np.ndarray:
    """One Hugging Face array, contiguous, from one layer of ours."""
    array = array if entry.transform == "same" else array.T
    return np.ascontiguousarray(array).reshape(hf_shape(entry, config))


def parameter_shapes(config: VLMConfig) -> dict:
    """A tree like the parameters, of shapes."""
    return unflatten({e.path: shape(e, config) for e in entries(config)})


def parameter_axes(config: VLMConfig) -> dict:
    """A tree like the parameters, of axis letters as `parallel.sharding` reads them ("LDH")."""
    return unflatten({e.path: letters(e) for e in entries(config)})


def parameter_shardings(config: VLMConfig, mesh: jax.sharding.Mesh) -> dict:
    """A tree like the parameters, of shardings."""
    return jax.tree.map(
        lambda letters, shape: sharding.sharding(mesh, letters, shape),
        parameter_axes(config),
        parameter_shapes(config),
    )


def unflatten(flat: dict) -> dict:
    """{"vision/merger/norm/scale": x} -> {"vision": {"merger": {"norm": {"scale": x}}}}."""
    return traverse_util.unflatten_dict(flat, sep="/")


def flatten(params: dict) -> dict:
    return traverse_util.flatten_dict(params, sep="/")


def _tower(entry: Entry, config: VLMConfig):
    return config.vision if entry.path.startswith("vision/") else config.text


def _sizes(entry: Entry, config: VLMConfig) -> dict[str, int]:
    v, t = config.vision, config.text
    if entry.path.startswith("vision/"):
        merged = v.width * v.merge_size**2
        return {
            "patch": v.patch_values,
            "W": v.width,
            "3W": 3 * v.width,
            "F": v.mlp_width,
            "merged": merged,
            "D": v.out_width,
        }
    return {
        "V": t.vocab_size,
        "D": t.width,
        "HC": t.heads * t.head_size,
        "KC": t.kv_heads * t.head_size,
        "F": t.mlp_width,
    }
