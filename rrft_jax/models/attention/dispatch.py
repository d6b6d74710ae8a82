"""Which library computes an attention, and how its arguments lie on the mesh."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrft_jax.errors import UserError
from rrft_jax.models.attention import cudnn, splash, xla
from rrft_jax.parallel import sharding

FORMS = {"xla": xla, "splash": splash, "cudnn": cudnn}
CHOICES = ("auto", *FORMS)


class Kernels(NamedTuple):
    """Which form to run, and the mesh that its arguments lie on (None: one device)."""

    form: str = "xla"
    mesh: jax.sharding.Mesh | None = None


PLAIN = Kernels()


def choose(choice: str, mesh: jax.sharding.Mesh | None, dtype: Any) -> Kernels:
    """The kernels of a model that computes in `dtype` on `mesh`.

    Args:
      choice: one of `CHOICES`; "auto" is what suits the devices. They are those of the mesh, and
        not those of this machine, so that a program can be compiled for a slice that isn't here.
      mesh: None is the default device.
      dtype: of queries, keys and values.

    Raises:
      UserError: no such choice, or cuDNN for a dtype that it doesn't know.
    """
    if choice not in CHOICES:
        raise UserError(f"model.attention: {choice!r} is not one of {', '.join(CHOICES)}")
    half = jnp.dtype(dtype).itemsize == 2
    if choice == "auto":
        by_platform = {"tpu": "splash", "gpu": "cudnn" if half else "xla"}
        choice = by_platform.get(_platform(mesh), "xla")
    if choice == "cudnn" and not half:
        raise UserError(
            f"model.attention: cudnn computes in bfloat16, not in {jnp.dtype(dtype)}; "
            "set model.compute_dtype=bfloat16, or model.attention=xla"
        )
    return Kernels(choice, mesh)


def segment(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, kernels: Kernels = PLAIN
) -> jax.Array:
    """Attention inside segments.

    Args:
      q, k, v: [B,S,H,C].
      segments: [B,S] int, equal inside a segment.
      kernels: see `choose`.

    Returns:
      [B,S,H,C].
    """
    return _run("segment", kernels, ("BSHC", "BSHC", "BSHC", "BS"), q, k, v, segments)


def causal(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, kernels: Kernels = PLAIN
) -> jax.Array:
    """Causal attention with grouped query heads.

    Args:
      q: [B,P,H,C].
      k, v: [B,P,K,C]; every H/K query heads share one.
      mask: [B,P] bool, False on padding.
      kernels: see `choose`.

    Returns:
      [B,P,H,C].
    """
    return _run("causal", kernels, ("BPHC", "BPKC", "BPKC", "BP"), q, k, v, mask)


def group(
    q: jax.Array,
    prompt_k: jax.Array,
    prompt_v: jax.Array,
    prompt_mask: jax.Array,
    own_k: jax.Array,
    own_v: jax.Array,
    kernels: Kernels = PLAIN,
) -> jax.Array:
    """Attention of completions over their shared prompt and their own past.

    Args:
      q: [B,G,T,H,C].
      prompt_k, prompt_v: [B,P,K,C].
      prompt_mask: [B,P] bool.
      own_k, own_v: [B,G,T,K,C].
      kernels: see `choose`.

    Returns:
      [B,G,T,H,C].
    """
    letters = ("BGTHC", "BPKC", "BPKC", "BP", "BGTKC", "BGTKC")
    return _run("group", kernels, letters, q, prompt_k, prompt_v, prompt_mask, own_k, own_v)


def _run(name: str, kernels: Kernels, letters: tuple[str, ...], *arrays: jax.Array) -> jax.Array:
    """One form of an attention, whose result is laid out as its first argument.

    XLA splits its own form over a mesh as it likes. A kernel is opaque to it: every device runs one
    over its own rows and heads.
    """
    form, mesh = getattr(FORMS[kernels.form], name), kernels.mesh
    if kernels.form == "splash":
        form = functools.partial(form, interpret=_platform(mesh) != "tpu")
    if kernels.form == "xla" or mesh is None or mesh.size == 1:
        return form(*arrays)
    # Query heads stay with the key/value heads that they read.
    whole = any(
        "K" in axes and x.shape[axes.index("K")] % mesh.shape["tensor"]
        for axes, x in zip(letters, arrays)
    )
    if whole:
        letters = tuple(axes.replace("H", ".").replace("K", ".") for axes in letters)
    specs = tuple(sharding.spec(mesh, axes, x.shape) for axes, x in zip(letters, arrays))
    split = jax.shard_map(form, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    return split(*arrays)


def _platform(mesh: jax.sharding.Mesh | None) -> str:
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
