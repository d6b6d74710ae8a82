"""A stage's number of steps, and the size of its batches on a mesh."""

import pytest

from rrft_jax.assets import TINY
from rrft_jax.data import Processor, Source
from rrft_jax.data.stages import num_samples, num_steps, stage_loader
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.settings import Config, EvalSettings, GRPOSettings
from tests.loading import example_of

SOURCES = [Source([example_of(i) for i in range(3)]), Source([example_of(i) for i in range(3, 7)])]


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(TINY)


def test_steps_are_given_or_follow_from_epochs():
    assert num_samples(SOURCES) == 7
    assert num_steps(GRPOSettings(steps=5, epochs=3, batch_size=4), 7) == 5
    assert num_steps(GRPOSettings(epochs=3, batch_size=4), 7) == 6  # 21 samples by fours


@pytest.mark.parametrize("asked, size", [(64, 8), (4, 4), (3, 4)])
def test_an_evaluation_s_batches_fit_the_split_and_the_mesh(processor, asked, size):
    config = Config(eval=EvalSettings(batch_size=asked))
    mesh = make_mesh(data=2, fsdp=1, tensor=1)
    loader = stage_loader(config, "eval", SOURCES, processor, mesh)
    batches = list(loader)
    loader.close()
    assert all(len(batch.prompt.tokens) == size for batch in batches)
    assert sorted(id for batch in batches for id in batch.ids) == [f"e{i}" for i in range(7)]


def test_without_a_mesh_a_batch_is_one_row(processor):
    loader = stage_loader(Config(), "sft", SOURCES, processor)
    batch = next(loader)
    loader.close()
    assert len(batch.prompt.tokens) == len(batch.examples) == 1
    assert batch.completions is not None
