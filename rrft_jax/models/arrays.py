"""The arrays of the model's annotations: `Float[Array, "B P D"]`."""

import jax
import numpy as np

# Outside `jax.jit` a batch of the loader, in NumPy, may be given as it is.
Array = jax.Array | np.ndarray
