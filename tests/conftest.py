"""Shared by all tests: eight virtual CPU devices, quick compilation, checkpoints built once.

Most of the tests' time goes into compiling. So it is made quick, and what one process has compiled
the others take from a folder that lasts as long as this run.
"""

import atexit
import os
import shutil
import tempfile

from tests.short import QUICK

os.environ["JAX_PLATFORMS"] = "cpu"
if "PYTEST_XDIST_WORKER" not in os.environ:  # its environment is the first process's
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"
    )
    _CACHE = tempfile.mkdtemp(prefix="rrft_jax-compiled-")
    atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import functools  # noqa: E402

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

from tests.shapes import checked  # noqa: E402

# Before the package is imported: its shapes and dtypes are checked wherever a test traces it.
CHECKED = ["rrft_jax.models", "rrft_jax.rollout"]
install_import_hook(CHECKED, f"{checked.__module__}.{checked.__name__}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first, so that no process is left alone with one of them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def gpu_plugin():
    """Skip a test where JAX can't compile for absent GPUs."""
    from rrft_jax.errors import UserError
    from rrft_jax.parallel import gpus

    try:
        gpus.check_plugin()
    except UserError as error:
        pytest.skip(str(error))


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
