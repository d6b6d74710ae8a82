"""Shared by all tests: eight virtual CPU devices, and checkpoints that are built once."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import functools  # noqa: E402

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

from tests.shapes import checked  # noqa: E402

# Before the package is imported: its shapes and dtypes are checked wherever a test traces it.
CHECKED = ["rrft_jax.models"]
install_import_hook(CHECKED, f"{checked.__module__}.{checked.__name__}")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """`checkpoint(preset)`: the folder of a random Qwen2-VL, written by torch once a session."""
    from tests import checkpoints

    @functools.cache
    def make(preset: str) -> str:
        path = tmp_path_factory.mktemp(preset)
        checkpoints.make(path, preset)
        return str(path)

    return make
