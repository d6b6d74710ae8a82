#!/usr/bin/env bash
# A rematerialisation policy that saves products misses one in a `jax.custom_vjp` function, if the
# forward rule calls the function itself.
#
# Setup: a product with a gradient of its own, between two sines, under `jax.checkpoint` with
# `dots_saveable`. The forward rule is written in two ways: it calls the function, as examples of
# `custom_vjp` do, or it writes the product again.
# Expected: the product's result is saved in both.
# Seen: it is saved only in the second. In the first, the policy meets the call of the function,
# which is no product, and the backward pass computes it again. Nothing warns of it. A name given to
# the result by `checkpoint_name` is seen in both, by `save_only_these_names`.
# Versions: jax 0.10.2, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2

cat > "$dir/saved.py" <<'EOF'
import contextlib, io
import jax, jax.ad_checkpoint
import jax.numpy as jnp


def product(calls_itself):
    @jax.custom_vjp
    def f(x, w):
        return x @ w

    def forward(x, w):
        return f(x, w) if calls_itself else x @ w, (x, w)

    def backward(kept, gradient):
        x, w = kept
        return gradient @ w.T, x.T @ gradient

    f.defvjp(forward, backward)
    return f


def saved(f, policy):
    layer = jax.checkpoint(lambda x, w: jnp.sin(f(jnp.sin(x), w)).sum(), policy=policy)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        jax.ad_checkpoint.print_saved_residuals(layer, jnp.ones((8, 4)), jnp.ones((4, 16)))
    return "f32[8,16]" in told.getvalue()


policies = jax.checkpoint_policies
for calls_itself in (True, False):
    f = product(calls_itself)
    named = lambda x, w: jax.ad_checkpoint.checkpoint_name(f(x, w), "product")
    by_kind = saved(f, policies.dots_saveable)
    by_name = saved(named, policies.save_only_these_names("product"))
    print(f"calls itself {calls_itself}: saved {by_kind}, by name {by_name}")
EOF

stated="calls itself True: saved False, by name True
calls itself False: saved True, by name True"
seen=$(JAX_PLATFORMS=cpu "$dir/venv/bin/python" "$dir/saved.py")
echo "$seen"
[ "$seen" = "$stated" ]
