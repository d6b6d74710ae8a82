"""The CPU is not taken for the device of a machine that has an accelerator."""

import jax
import pytest

from rrft_jax.accelerator import device
from rrft_jax.errors import UserError


@pytest.fixture
def card(monkeypatch, tmp_path):
    file = tmp_path / "nvidia0"
    file.touch()
    monkeypatch.setattr(device, "_FILES", {"an NVIDIA GPU": ((str(file),), "cuda13")})


def test_a_card_that_jax_does_not_see_is_named(card):
    with pytest.raises(UserError) as error:
        device.refuse_hidden({})
    assert str(error.value) == (
        f"this machine has an NVIDIA GPU, but jax {jax.__version__} sees only the CPU; install "
        "jax[cuda13] of the same release, or set JAX_PLATFORMS=cpu to check the CPU"
    )


def test_the_cpu_can_be_asked_for(card):
    assert device.refuse_hidden({"JAX_PLATFORMS": "cpu"}) is None


def test_a_machine_without_a_card_is_checked_as_it_is(monkeypatch):
    monkeypatch.setattr(device, "_FILES", {"a TPU": (("/no/such/file",), "tpu")})
    assert device.refuse_hidden({}) is None
