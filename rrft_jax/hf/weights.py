"""Weights in safetensors files, read by slices onto their devices.

The headers of the files are checked before a weight is read. A process reads only the slices that
its own devices hold; from a URL it reads the whole rows of these slices. Host memory holds a few
tensors, and no stack of layers above a fixed size.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax import lfs
from rrft_jax.errors import UserError
from rrft_jax.hf import storage
from rrft_jax.models import table
from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel import sharding

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
# Weights in files of another name or kind. Other files that a trainer leaves must not match.
_OTHERS = re.compile(
    r"(?:\w+_)?(?:model|consolidated).*\.(?:safetensors|bin|pt|pth|ckpt|h5|msgpack)|.*\.gguf"
)

# Stacks of layers up to this many bytes are made on the host. A larger stack is filled on its
# devices, layer by layer, which takes one compiled program per stack.
STACK = 2**28
_AHEAD, _THREADS = 2**26, 4  # bytes read ahead of need; reads at the same time
_HEADER = 10**8  # bytes; no reader of safetensors accepts a longer header

Index = tuple[slice, ...]
Ranges = tuple[tuple[int, int], ...]  # (begin, end) each, in order, without overlap


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The place of a tensor in a file; `name` is its name there, `dtype` safetensors' type name."""

    file: storage.File
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int


class Weights:
    """The files of weights of a folder, checked against the parameter table, but not yet read.

    Raises:
      UserError: a file or a weight is missing, unknown, or not as the config describes it.
    """

    def __init__(self, folder: storage.Path, config: VLMConfig):
        self.config = config
        self.found: dict[str, Tensor] = {}  # by the table's name
        for file in _open(folder):
            for tensor in header(file)[0]:
                self.found[table.import_name(tensor.name, config)] = tensor
        self._check(folder)

    def load(self, dtype: Any, mesh: jax.sharding.Mesh | None) -> dict[str, jax.Array]:
        """Read all parameters, and return them by their path, laid out on the mesh.

        Args:
          dtype: their dtype; None keeps that of the files.
          mesh: the mesh; None puts all parameters on the first device.

        Raises:
          UserError: a file ends too early, or a weight holds NaN or infinity.
        """
        entries = table.entries(self.config)
        wanted = {entry.path: _own(entry, self.config, mesh) for entry in entries}
        reads = _ahead(
            (self.found[name], *_file_ranges(entry, wanted[entry.path]))
            for entry in entries
            for name in table.names(entry, self.config)
        )
        params = {}
        for entry in entries:
            names = table.names(entry, self.config)
            stored = {DTYPES[self.found[name].dtype] for name in names}
            one = jnp.dtype(dtype or functools.reduce(jnp.promote_types, stored))
            layers = (table.from_hf(entry, next(reads)) for _ in names)
            params[entry.path] = _place(layers, entry, self.config, one, wanted[entry.path], mesh)
        return params

    def tensor(self, entry: table.Entry, layer: int) -> Tensor:
        """Return the place of a layer's tensor."""
        return self.found[table.names(entry, self.config)[layer]]

    def stored(self, entry: table.Entry, layer: int) -> np.ndarray:
        """Read a layer's tensor as it is stored, in the table's shape.

        Raises:
          UserError: a file ends too early, or the weight holds NaN or infinity.
        """
        tensor = self.tensor(entry, layer)
        return table.from_hf(entry, read(tensor, ((0, tensor.shape[0]),), None))

    def _check(self, folder: storage.Path) -> None:
        expected = {
            name: table.hf_shape(entry, self.config)
            for entry in table.entries(self.config)
            for name in table.names(entry, self.config)
        }
        missing = [name for name in expected if name not in self.found]
        if missing:
            raise UserError(
                f"{folder}: config.json describes the weight {missing[0]}"
                + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
                + ", but no safetensors file holds it; download the folder again"
            )
        head = table.hf_name(table.HEAD, self.config)
        for name, tensor in self.found.items():
            where = f"{tensor.file.path}: weight {tensor.name}"
            if name == head and self.config.text.tied:
                self._check_tied_head(tensor)
                continue
            if name not in expected:
                raise UserError(
                    f"{where}: config.json describes no such weight; give the config.json of these "
                    "weights"
                )
            if tensor.shape != expected[name]:
                raise UserError(
                    f"{where} has shape {tensor.shape}, but config.json says {expected[name]}; "
                    "give the config.json of these weights"
                )
            if tensor.dtype not in DTYPES:
                raise UserError(
                    f"{where} is stored as {tensor.dtype}, expected {', '.join(DTYPES)}"
                )

    def _check_tied_head(self, head: Tensor) -> None:
        """Check that the head of a tied model equals the embedding.

        Some writers repeat the embedding as the head, which is harmless if the two are equal.
        """
        embedding = self.found[table.hf_name(table.EMBEDDING, self.config)]
        same = (head.shape, head.dtype) == (embedding.shape, embedding.dtype)
        rows = head.shape[0]
        for begin in range(0, rows if same else 0, 4096):
            part = ((begin, min(begin + 4096, rows)),)
            one, other = (read(t, part, None)[slice(*part[0])] for t in (head, embedding))
            same = same and np.array_equal(one, other)
        if not same:
            raise UserError(
                f"{head.file.path}: {head.name} differs from the embedding, but config.json "
                "ties them; set tie_word_embeddings to false there"
            )


def file_sizes(folder: storage.Path) -> dict[str, int]:
    """Return the size in bytes of each of a folder's files of weights, by its name."""
    return {file.path.rpartition("/")[2]: header(file)[1] for file in _open(folder)}


def _open(folder: storage.Path) -> Iterator[storage.File]:
    """Open the files of weights: the single one, or all that the index names."""
    for name in _file_names(folder):
        try:
            yield storage.File(folder, name)
        except FileNotFoundError:
            raise _missing(storage.join(folder, name)) from None


def _file_names(folder: storage.Path) -> list[str]:
    local = None if storage.is_url(folder) else pathlib.Path(folder)
    if local and (local / WEIGHTS).exists():
        return [WEIGHTS]
    index = storage.read(folder, INDEX)
    if index is not None:
        where = storage.join(folder, INDEX)
        weight_map = storage.json_object(index, where).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{where}: 'weight_map' is missing")
        return sorted(set(weight_map.values()))
    if local is None:
        return [WEIGHTS]
    others = sorted(f.name for f in local.iterdir() if _OTHERS.fullmatch(f.name))
    hint = ", only safetensors are: convert it, or download the folder again"
    if shards := [name for name in others if name.endswith(".safetensors")]:
        others, hint = shards, f" without {INDEX}, which says what is where: download that too"
    raise UserError(
        f"{folder}: neither {WEIGHTS} nor {INDEX} is there"
        + (f"; {others[0]} is not read{hint}" if others else "; download the folder's weights")
    )


def _missing(path: str) -> UserError:
    folder, _, name = path.rpartition("/")
    if name == WEIGHTS:
        return UserError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there")
    return UserError(f"{path}: no such file, but {INDEX} names it; download it again")


def header(file: storage.File) -> tuple[list[Tensor], int]:
    """Read the header of a file; return its tensors and the file's size in bytes.

    A file holds the length of its header (8 bytes), the header (JSON), and the data.
    """
    try:
        start = file.read(0, 8)
        if lfs.POINTER.startswith(start):
            raise UserError(f"{file.path}: {lfs.message(file.read(0, file.size or 100))}")
        length = int.from_bytes(start, "little")
        if length > _HEADER:
            raise ValueError(f"a header of {length} bytes")
        fields = json.loads(file.read(8, 8 + length))
        fields.pop("__metadata__", None)
        tensors, size = [], 8 + length
        for name, field in fields.items():
            shape, (begin, end) = tuple(field["shape"]), field["data_offsets"]
            tensors.append(Tensor(file, name, field["dtype"], shape, 8 + length + begin))
            if field["dtype"] in DTYPES and end - begin != _nbytes(tensors[-1]):
                raise ValueError(f"{end - begin} bytes for {name}")
            size = max(size, 8 + length + end)
        if file.size not in (None, size):
            raise _torn(file, f"it has {file.size:,} bytes, but its header promises {size:,}")
        file.read(size - 1, size)  # raises EOFError if the file is cut off
    except FileNotFoundError:
        raise _missing(file.path) from None
    except UserError:
        raise
    except (ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, EOFError) and file.size is not None:
            raise _torn(file, f"it has {file.size:,} bytes, and no whole header") from None
        raise _torn(file, f"{type(error).__name__}: {error}") from None
    return tensors, size


def _torn(file: storage.File, reason: str) -> UserError:
    return UserError(
        f"{file.path}: incomplete or no safetensors file ({reason}); copy or download it again"
    )


def _nbytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * jnp.dtype(DTYPES[tensor.dtype]).itemsize


def _own(entry: table.Entry, config: VLMConfig, mesh: jax.sharding.Mesh | None) -> list[Index]:
    """Return the slices of one layer, in the table's shape, on the devices of this process."""
    shape = table.shape(entry, config)[entry.stacked :]
    if mesh is None:
        return [tuple(slice(0, size) for size in shape)]
    layout = sharding.sharding(mesh, entry.axes, shape)
    found = {
        tuple(s.indices(size)[:2] for s, size in zip(index, shape))
        for index in layout.addressable_devices_indices_map(shape).values()
    }
    return [tuple(slice(*part) for part in index) for index in sorted(found)]


def _file_ranges(entry: table.Entry, own: Iterable[Index]) -> tuple[Ranges, Ranges | None]:
    """Return the rows and columns of one layer's slices in the file's shape.

    The file of a linear map holds the transposed matrix. Columns are None for a vector.
    """
    rows, columns = (
        _joined((index[axis].start, index[axis].stop) for index in own)
        for axis in ((0, -1) if entry.transform == "same" else (-1, 0))
    )
    return rows, columns if len(entry.sizes) > 1 else None


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if joined and begin <= joined[-1][1]:
            begin, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((begin, end))
    return tuple(joined)


def read(tensor: Tensor, rows: Ranges, columns: Ranges | None) -> np.ndarray:
    """Read these rows and columns (None: all) of a tensor; the other values are undefined.

    Whole pages of undefined values take no memory.

    Raises:
      UserError: the file ends too early, or a value that was read isn't finite.
    """
    dtype = jnp.dtype(DTYPES[tensor.dtype])
    width = math.prod(tensor.shape[1:]) * dtype.itemsize
    array = np.empty((tensor.shape[0], width), np.uint8)
    pieces = [(begin * dtype.itemsize, end * dtype.itemsize) for begin, end in columns or ()]
    # At a URL one request for a whole row is faster than several for parts of it.
    whole = tensor.file.remote or columns is None or pieces == [(0, width)]
    try:
        for begin, end in rows:
            if whole:
                tensor.file.read_into(array[begin:end].reshape(-1), tensor.begin + begin * width)
                continue
            for row in range(begin, end):
                for left, right in pieces:
                    place = tensor.begin + row * width + left
                    tensor.file.read_into(array[row, left:right], place)
    except (EOFError, FileNotFoundError, OSError) as error:
        raise _torn(tensor.file, f"{type(error).__name__}: {error}") from None
    values = array.view(dtype)
    for begin, end in rows:
        for left, right in columns or ((0, values.shape[1]),):
            if not _all_finite(values[begin:end, left:right]):
                raise UserError(
                    f"{tensor.file.path}: weight {tensor.name} holds NaN or infinity; take a "
                    "checkpoint from before its training broke"
                )
    return values.reshape(tensor.shape)


def _all_finite(values: np.ndarray) -> bool:
    """Say whether all values are finite; checks few rows at a time, for NumPy copies them."""
    some = max(1, 2**22 // max(1, values.shape[1]))
    return all(np.isfinite(values[i : i + some]).all() for i in range(0, len(values), some))


def _ahead(requests: Iterable[tuple[Tensor, Ranges, Ranges | None]]) -> Iterator[np.ndarray]:
    """Yield the result of `read` for each request, in order; threads read ahead of need."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        waiting: collections.deque = collections.deque()
        for request in requests:
            size = _nbytes(request[0])
            while waiting and size + sum(n for n, _ in waiting) > _AHEAD:
                yield waiting.popleft()[1].result()
            waiting.append((size, pool.submit(read, *request)))
        while waiting:
            yield waiting.popleft()[1].result()


def _place(
    layers: Iterator[np.ndarray],
    entry: table.Entry,
    config: VLMConfig,
    dtype: jnp.dtype,
    own: Iterable[Index],
    mesh: jax.sharding.Mesh | None,
) -> jax.Array:
    """Make one parameter on its devices from an iterator over its layers."""
    shape, axes = table.shape(entry, config), table.axes(entry)
    if not entry.stacked:
        return _put(next(layers), shape, dtype, axes, mesh)
    if math.prod(shape) * dtype.itemsize <= STACK:
        stack = np.empty(shape, dtype)
        for place, layer in zip(stack, layers, strict=True):
            for index in own:
                place[index] = layer[index]
        return _put(stack, shape, dtype, axes, mesh)
    where = None if mesh is None else sharding.sharding(mesh, axes, shape)
    stack = jnp.zeros(shape, dtype, device=where)
    for i, layer in enumerate(layers):
        one = _put(layer, shape[1:], dtype, axes[1:], mesh)
        stack = _filled(where)(stack, one, np.int32(i))
        stack.block_until_ready()  # otherwise layers in flight could use up the memory
    return stack


def _put(
    array: np.ndarray,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    axes: str,
    mesh: jax.sharding.Mesh | None,
) -> jax.Array:
    if mesh is None:
        return jnp.asarray(array.astype(dtype, copy=False)).block_until_ready()
    return jax.make_array_from_callback(
        shape,
        sharding.sharding(mesh, axes, shape),
        lambda index: array[index].astype(dtype, copy=False),
    ).block_until_ready()


@functools.cache
def _filled(where: jax.sharding.Sharding | None) -> Callable[..., jax.Array]:
    def fill(stack: jax.Array, layer: jax.Array, i: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(stack, layer, i, 0)

    return jax.jit(fill, donate_argnums=0, out_shardings=where)
