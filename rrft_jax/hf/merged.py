"""The tensors of a folder with an adapter's product added: W + scale * a b."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax.hf import storage
from rrft_jax.hf.weights import DTYPES, Weights
from rrft_jax.models import adapter, table
from rrft_jax.models.vlm import VLM
from rrft_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Merged:
    """The tensors of a folder, one at a time.

    The product is computed and added in float32. A tensor has its dtype in the folder, or that of
    the model's activations if it is wider, because the adapter was trained beside such weights. All
    processes must make one, and the first one reads.
    """

    weights: Weights
    factors: dict[str, tuple[np.ndarray, np.ndarray] | None]
    model: VLM

    @classmethod
    def open(cls, folder: storage.Path, model: VLM, params: dict) -> "Merged":
        """Open the weights of a folder, and gather the adapter of `params`.

        Raises:
          UserError: the folder's weights are not those of the model.
        """
        factors = {}
        for path, pair in adapter.pairs(params["adapter"]).items():
            a, b = map(sharding.to_host0, pair)
            factors[f"{path}/kernel"] = None if a is None else tuple(map(np.float32, (a, b)))
        return cls(Weights(folder, model.config), factors, model)

    def dtype(self, entry: table.Entry, layer: int) -> jnp.dtype:
        """Return the dtype of a layer's tensor."""
        stored = DTYPES[self.weights.tensor(entry, layer).dtype]
        return jnp.promote_types(stored, self.model.dtype)

    def gather(self, entry: table.Entry, layer: int) -> np.ndarray | None:
        """Return a layer's tensor in the table's shape, on the first process's host."""
        if jax.process_index():
            return None
        kernel, dtype = self.weights.stored(entry, layer), self.dtype(entry, layer)
        if entry.path not in self.factors:
            return kernel.astype(dtype, copy=False)
        a, b = (x[layer] if entry.stacked else x for x in self.factors[entry.path])
        product = np.float32(self.model.lora.scale) * (a @ b)
        return (kernel.astype(np.float32) + product).astype(dtype)
