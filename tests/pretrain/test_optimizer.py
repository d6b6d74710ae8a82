import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax.pretrain.__main__ import make_optimizer


def updates(params, gradients):
    optimizer = make_optimizer(params, 100)
    state = optimizer.init(params)
    for _ in range(2):  # the first has a learning rate of 0
        given, state = optimizer.update(gradients, state, params)
    return given


def test_layers_of_a_stack_are_updated_as_if_each_were_alone():
    keys = jax.random.split(jax.random.key(0), 2)
    params, gradients = (jax.random.normal(key, (3, 16, 24)) for key in keys)
    gradients /= jnp.linalg.norm(gradients)  # so that clipping leaves them alone
    stacked = updates({"layers/kernel": params}, {"layers/kernel": gradients})["layers/kernel"]
    for layer in range(3):
        alone = updates({"layer/kernel": params[layer]}, {"layer/kernel": gradients[layer]})
        alone = alone["layer/kernel"]
        np.testing.assert_allclose(stacked[layer], alone, atol=1e-6)


def test_matrices_move_by_orthogonal_steps_and_embeddings_do_not():
    params = {name: jnp.zeros((16, 24)) for name in ("layers/kernel", "embed/embedding")}
    gradient = jax.random.normal(jax.random.key(0), (16, 24)) * jnp.logspace(-3, 0, 24) / 50
    moved = updates(params, dict.fromkeys(params, gradient))
    spread = {
        name: np.divide(*np.linalg.svd(step, compute_uv=False)[[0, -1]])
        for name, step in moved.items()
    }
    assert spread["layers/kernel"] < 3 < spread["embed/embedding"]
