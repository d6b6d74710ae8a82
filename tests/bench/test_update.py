"""The update's benchmark: what it counts, and that the repeated form is the same update."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rrft_jax.bench import lora, update, workload
from rrft_jax.bench.flops import attended_pairs, score_flops
from rrft_jax.models import VLM
from tests import tiny

SMALL = workload.Workload(
    prompts=2, prompt_tokens=12, rows=2, cols=4, samples=3, new_tokens=5, model=tiny.CONFIG
)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, "start", functools.cache(update.start))
        yield


@pytest.mark.parametrize(
    "config",
    [
        tiny.CONFIG,
        dataclasses.replace(
            tiny.WINDOWS, vision=dataclasses.replace(tiny.WINDOWS.vision, window_side=0)
        ),
        tiny.DEEP,
    ],
    ids=["plain MLPs", "gated MLPs in the tower", "deepstack"],
)
def test_operations_are_those_of_the_compiled_products(config):
    """Of a model whose scores and other small things hardly count beside its weights' products."""
    text = dataclasses.replace(
        config.text, width=128, depth=1, head_size=32, mlp_width=1024, mrope_sections=(8, 4, 4)
    )
    vision = dataclasses.replace(config.vision, width=128, depth=1, mlp_width=1024, out_width=128)
    sizes = dataclasses.replace(config, text=text, vision=vision)
    work = dataclasses.replace(SMALL, model=sizes)
    model = VLM(sizes)
    shape = (work.prompts, work.samples, work.new_tokens)
    lowered = jax.jit(model.score).lower(
        jax.eval_shape(model.init, jax.random.key(0)),
        workload.random_prompt(work),
        np.zeros(shape, np.int32),
    )
    counted = lowered.cost_analysis()["flops"]
    assert counted == pytest.approx(score_flops(work), rel=0.05)


def test_pairs_of_patches_are_those_inside_windows():
    def count(rows, cols, side):
        pictures = [(r // side, c // side) for r in range(rows) for c in range(cols)]
        return sum(one == other for one in pictures for other in pictures)

    tower = dataclasses.replace(tiny.WINDOWS.vision, depth=5, window_side=4, whole_blocks=(1, 3))
    expected = 2 * (6 * 10) ** 2 + 3 * count(6, 10, 4)
    assert attended_pairs(tower, 6, 10) == expected
    assert attended_pairs(dataclasses.replace(tower, window_side=0), 6, 10) == 5 * (6 * 10) ** 2


def test_repeated_prompts_give_the_same_update():
    shared, repeated = (update.start(SMALL, None, **form)[0]() for form in ({}, {"repeat": True}))
    for name in ("loss", "gradient_norm", "kl", "entropy"):
        assert shared[name] == pytest.approx(float(repeated[name]), rel=1e-4), name


@pytest.mark.parametrize("bench, keys", [
    (update.bench_update, {"update", "tokens_per_second", "model_tflops_per_second", "device"}),
    (update.bench_repeated, {"shared", "repeated", "ratio", "device"}),
    (functools.partial(lora.bench_lora, rank=2), {
        "rank", "full", "lora", "ratio", "gather", "merge", "token", "token_with_factors", "device",
    }),
])  # fmt: skip
def test_reports(bench, keys):
    report = bench(SMALL, None, repeats=1)
    assert set(report) == keys
    assert all(value > 0 for name, value in report.items() if name != "device")
