"""The choice of the library that computes an attention, and the layout of its arguments."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from rrft_jax.errors import UserError
from rrft_jax.models.arrays import Array
from rrft_jax.models.attention import cudnn, splash, xla
from rrft_jax.models.attention.keys import KeyValues
from rrft_jax.parallel import sharding

FORMS = {"xla": xla, "splash": splash, "cudnn": cudnn}
CHOICES = ("auto", *FORMS)


class Kernels(NamedTuple):
    """The form to run, and the mesh that its arguments lie on (None: one device)."""

    form: str = "xla"
    mesh: jax.sharding.Mesh | None = None

    @property
    def tokens_first(self) -> bool:
        """Whether prompts must begin with their tokens, and not with their padding."""
        return self.form == "cudnn"  # it leaves out the last keys of a row, by their number


PLAIN = Kernels()


def choose(choice: str, mesh: jax.sharding.Mesh | None, dtype: Any) -> Kernels:
    """Return the kernels of a model that computes in `dtype` on `mesh`.

    Args:
      choice: one of `CHOICES`; "auto" chooses by the devices of the mesh. They may be absent from
        this machine: a program can be compiled for a slice that isn't here.
      mesh: the mesh; None is the default device.
      dtype: the dtype of queries, keys and values.

    Raises:
      UserError: the choice is unknown, or is cuDNN with a dtype that cuDNN doesn't support.
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
    q: Float[Array, "B S H C"],
    k: Float[Array, "B S H C"],
    v: Float[Array, "B S H C"],
    segments: Int[Array, "B S"],
    kernels: Kernels = PLAIN,
    longest: int | None = None,
) -> Float[Array, "B S H C"]:
    """Attend inside segments, in both directions: patches with equal ids see each other.

    Args:
      q, k, v: the queries, keys and values of the patches.
      segments: their ids.
      kernels: see `choose`.
      longest: the most patches of a segment. It says that the patches of each segment lie side by
        side. The cost then grows with S, and not with its square.
    """
    if longest is not None and longest >= q.shape[1]:
        longest = None
    axes = ("BSHC", "BSHC", "BSHC", "BS")
    return _run("segment", kernels, axes, q, k, v, segments, longest=longest)


def causal(
    q: Float[Array, "B P H C"],
    k: Float[Array, "B P K C"],
    v: Float[Array, "B P K C"],
    mask: Bool[Array, "B P"],
    kernels: Kernels = PLAIN,
) -> Float[Array, "B P H C"]:
    """Attend to the tokens before; every H/K query heads share a key head.

    Args:
      q, k, v: the queries, keys and values of the prompts.
      mask: False on padding, which is on the side that `kernels` need.
      kernels: see `choose`.
    """
    return _run("causal", kernels, ("BPHC", "BPKC", "BPKC", "BP"), q, k, v, mask)


def group(
    q: Float[Array, "B G T H C"],
    prompt: KeyValues,
    prompt_mask: Bool[Array, "B P"],
    own: KeyValues,
    kernels: Kernels = PLAIN,
) -> Float[Array, "B G T H C"]:
    """Attend from completions to their shared prompt and their own past, under one softmax.

    Args:
      q: the queries of the completions.
      prompt: keys and values [B,P,K,C] of the prompts.
      prompt_mask: False on padding, which is on the side that `kernels` need.
      own: keys and values [B,G,T,K,C] of the completions.
      kernels: see `choose`.
    """
    axes = ("BGTHC", "BPKC", "BPKC", "BP", "BGTKC", "BGTKC")
    return _run("group", kernels, axes, q, *prompt, prompt_mask, *own)


def _run(
    name: str,
    kernels: Kernels,
    axes: tuple[str, ...],
    *arrays: Shaped[Array, "..."],
    **static: int | None,
) -> Float[Array, "..."]:
    """Run one form of an attention, whose result is laid out as its first argument.

    XLA splits its own form over a mesh as it likes. A kernel is opaque to XLA, so every device runs
    the kernel over its own sequences and heads.
    """
    form, mesh = functools.partial(getattr(FORMS[kernels.form], name), **static), kernels.mesh
    if kernels.form == "splash":
        form = functools.partial(form, interpret=_platform(mesh) != "tpu")
    if kernels.form == "xla" or mesh is None or mesh.size == 1:
        return form(*arrays)
    # Query heads stay with the key/value heads that they read.
    whole = any(
        "K" in own and x.shape[own.index("K")] % mesh.shape["tensor"]
        for own, x in zip(axes, arrays)
    )
    if whole:
        axes = tuple(own.replace("H", ".").replace("K", ".") for own in axes)
    specs = tuple(sharding.spec(mesh, own, x.shape) for own, x in zip(axes, arrays))
    split = jax.shard_map(form, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    return split(*arrays)


def _platform(mesh: jax.sharding.Mesh | None) -> str:
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
