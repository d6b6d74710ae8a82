"""The time of an adapter's update beside that of all weights, and two ways to sample with one."""

import functools

import jax
import numpy as np

from rrft_jax.bench import update
from rrft_jax.bench import workload as workloads
from rrft_jax.bench.workload import Workload
from rrft_jax.models import VLM
from rrft_jax.models.attention import KeyValues
from rrft_jax.models.decoder import DecoderLayer, DecodeStep, text_angles
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import sampler


def bench_lora(workload: Workload, checkpoint: str | None, repeats: int, rank: int) -> dict:
    """Return median seconds of the update with all weights and with an adapter, in turns.

    Beside them stand two ways to sample: `merge` adds the adapter to the sampler's weights, in
    place of `gather`, which makes these weights of a model without one. After that a token of all
    sequences costs `token`, against `token_with_factors` if the adapter stays beside the weights.
    """
    full, _, _ = update.start(workload, checkpoint)
    adapted, workload, _ = update.start(workload, checkpoint, rank=rank)
    times = update.medians([full, adapted], repeats)
    mesh = make_mesh()
    model, params, prompt = workloads.start(workload, checkpoint, mesh)
    model, params = update.with_adapter(model, params, mesh, rank)
    base = {name: part for name, part in params.items() if name != "adapter"}
    rows = (workload.prompts, workload.samples)
    draws = sampler.Draws(
        jax.random.key(0), np.int32(0), np.full(rows, workload.new_tokens, np.int32)
    )
    fixed = sampler.Fixed(model, workload.new_tokens, (), pad_token=0, shards=1)
    prompts, sequences = sampler.begin(fixed, params, prompt, draws, workload.new_tokens)
    token = jax.jit(functools.partial(_token, model))
    merged, plain = model.decoding_weights(params), model.decoding_weights(base)
    layers = [
        jax.tree.map(lambda x, i=i: x[i], params["adapter"]["language"]["layers"])
        for i in range(model.config.text.depth)
    ]

    def ready(function, *arguments):
        return lambda: jax.block_until_ready(function(*arguments))

    ways = update.medians(
        [
            ready(model.decoding_weights, base),
            ready(model.decoding_weights, params),
            ready(token, merged, None, prompts, sequences),
            ready(token, plain, layers, prompts, sequences),
        ],
        20 * repeats,  # they are short
    )
    names = ("gather", "merge", "token", "token_with_factors")
    return {
        "rank": rank,
        "full": round(times[0], 4),
        "lora": round(times[1], 4),
        "ratio": round(times[1] / times[0], 2),
        **{name: round(seconds, 5) for name, seconds in zip(names, ways)},
        "device": jax.devices()[0].device_kind,
    }


def _token(
    model: VLM,
    weights: dict,
    adapters: list[dict] | None,
    prompts: sampler.PromptCache,
    sequences: sampler.Sequences,
) -> tuple[jax.Array, list[KeyValues]]:
    """Run one token of each sequence through the decoder, as `VLM.decode` does."""
    text, time, rows = model.config.text, 0, len(sequences.done)
    positions = np.zeros((3, 1), np.int32) + sequences.next_position
    angles, seen = text_angles(text, positions), np.arange(sequences.cache[0].length) <= time
    step = DecodeStep(time, seen, angles, prompts.mask, prompts.slots)
    layer, x, caches = DecoderLayer(text, model.dtype), sequences.hidden, []
    for i, own in enumerate(weights["language"]["layers"]):
        variables = {"params": own, **({"adapter": adapters[i]} if adapters else {})}
        x, cache = layer.apply(
            variables, x, step, prompts.kv[i], sequences.cache[i], method="decode"
        )
        caches.append(cache)
    return x.reshape(rows, -1), caches
