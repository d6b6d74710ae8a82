"""Writing of weights to safetensors files, gathered and written tensor by tensor."""

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax.hf import weights
from rrft_jax.hf.weights import DTYPES, INDEX, WEIGHTS
from rrft_jax.models import table
from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel import sharding

_NAMES = {name: code for code, name in DTYPES.items()}
_Named = tuple[str, jnp.dtype, tuple[int, ...]]


class Tensors(Protocol):
    """The tensors to write."""

    def dtype(self, entry: table.Entry, layer: int) -> jnp.dtype:
        """Return the dtype of a layer's tensor."""

    def gather(self, entry: table.Entry, layer: int) -> np.ndarray | None:
        """Return a layer's tensor on the first process's host; all processes must call this."""


def save(
    folder: pathlib.Path | None, config: VLMConfig, source: Tensors, max_bytes: int
) -> set[str]:
    """Write the files of weights, and an index if there are several.

    The host holds one tensor at a time, or a small stack of layers.

    Args:
      folder: an empty folder; None writes nothing, and only helps the first process to gather.
      config: the sizes of the model.
      source: the tensors.
      max_bytes: the largest size of a file.

    Returns:
      the dtypes of the tensors.
    """
    plan = _plan_files(config, source, max_bytes)
    weight_map = {}
    for i, tensors in enumerate(plan):
        name = WEIGHTS if len(plan) == 1 else f"model-{i + 1:05}-of-{len(plan):05}.safetensors"
        weight_map.update((tensor.name, name) for tensor in tensors)
        with open(folder / name, "wb") if folder else contextlib.nullcontext() as out:
            if out:
                _write_header(out, [(one.name, one.dtype, one.shape) for one in tensors])
            for tensor in tensors:
                array = source.gather(tensor.entry, tensor.layer)
                if out:
                    array = table.to_hf(tensor.entry, array, config)
                    out.write(array.reshape(-1).view(np.uint8))
    if folder and len(plan) > 1:
        total = sum(tensor.nbytes for tensors in plan for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return {str(tensor.dtype) for tensors in plan for tensor in tensors}


def write_file(file: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write or replace a single safetensors file, which is whole at every moment.

    Args:
      file: the file.
      arrays: its tensors, by their names; all of one dtype.
    """
    partial = file.with_name(f".{file.name}.partial")
    with open(partial, "wb") as out:
        _write_header(out, [(name, one.dtype, one.shape) for name, one in arrays.items()])
        for array in arrays.values():
            out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    partial.replace(file)


@dataclasses.dataclass(frozen=True)
class _Written:
    """A tensor to write; `name` is its name in the released files."""

    name: str
    entry: table.Entry
    layer: int
    shape: tuple[int, ...]
    dtype: jnp.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _plan_files(config: VLMConfig, source: Tensors, max_bytes: int) -> list[list[_Written]]:
    """Assign the tensors to files: in the order of the table, as many in a file as fit."""
    files: list[list[_Written]] = [[]]
    size = 0
    for entry in table.entries(config):
        shape = table.hf_shape(entry, config)
        for layer, name in enumerate(table.names(entry, config)):
            dtype = source.dtype(entry, layer)
            one = _Written(table.export_name(name, config), entry, layer, shape, dtype)
            if files[-1] and size + one.nbytes > max_bytes:
                files.append([])
                size = 0
            files[-1].append(one)
            size += one.nbytes
    # The widest types come first, so that each tensor begins at a multiple of its type's width.
    return [sorted(file, key=lambda one: -one.dtype.itemsize) for file in files]


def _write_header(out: BinaryIO, tensors: Iterable[_Named]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers requires it
    begin = 0
    for name, dtype, shape in tensors:
        end = begin + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[str(dtype)],
            "shape": shape,
            "data_offsets": (begin, end),
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)


class Parameters:
    """Layers of parameters, brought to the first process's host; a small stack as a whole."""

    def __init__(self, params: dict[str, jax.Array]):
        self._params = params
        self._path, self._stack = "", None

    def dtype(self, entry: table.Entry, layer: int) -> jnp.dtype:
        """Return the dtype of a parameter."""
        return self._params[entry.path].dtype

    def gather(self, entry: table.Entry, layer: int) -> np.ndarray | None:
        """Return one layer; all processes must call this."""
        array = self._params[entry.path]
        if not entry.stacked:
            return sharding.to_host0(array)
        if array.nbytes > weights.STACK:
            return sharding.to_host0(_layer(array, np.int32(layer)))
        if self._path != entry.path:
            self._path, self._stack = entry.path, sharding.to_host0(array)
        return None if self._stack is None else self._stack[layer]


@jax.jit
def _layer(stack: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stack, i, 0, keepdims=False)
