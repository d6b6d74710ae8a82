"""Rollouts are selected, joined and put on the mesh as a whole; rewards keep their names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import Rollouts
from rrft_jax.rollout.rollouts import Rewards, abstract, concatenate, objects
from tests import tiny

G, T = 2, 3


def rewarded(first, size, name, row_ids):
    """Rollouts whose arrays all count from `first`, with one reward."""
    number = np.arange(first, first + size, dtype=np.float32)
    shape = (size, G, T)
    tokens = np.broadcast_to(number[:, None, None], shape).astype(np.int32)
    total = np.repeat(number[:, None], G, axis=1)
    return Rollouts(
        prompt=tiny.prompts(len(row_ids)),
        tokens=tokens,
        mask=np.ones(shape, bool),
        finished=np.ones(shape[:2], bool),
        rollout_log_probs=-tokens.astype(np.float32),
        texts=np.array([[f"{n:g}"] * G for n in number], object),
        rewards=Rewards(total, total[..., None], objects([{name: [n]} for n in number]), (name,)),
        records=objects([{"id": f"{n:g}", "tokens": 10} for n in number]),
        row_ids=row_ids,
    )


def test_selected_rows_keep_everything_but_the_prompts():
    got = rewarded(0, 4, "a", (0, 1, 2, 3)).select([2, 0, 2])
    assert got.tokens[:, 0, 0].tolist() == [2, 0, 2] and got.prompt is None
    assert got.texts[:, 1].tolist() == ["2", "0", "2"]
    assert got.rewards.by_name["a"][:, 0].tolist() == [2, 0, 2]
    assert [row["a"] for row in got.rewards.failures] == [[2], [0], [2]]
    assert [record["id"] for record in got.records] == ["2", "0", "2"]


def test_local_rows_stand_beside_the_local_prompts():
    rollouts = rewarded(0, 4, "a", (1, 3))
    local = rollouts.local()
    assert local.tokens[:, 0, 0].tolist() == [1, 3] and local.row_ids is None
    assert local.prompt is rollouts.prompt and len(local.prompt.tokens) == 2


def test_rewards_that_only_some_rows_have_are_nan_in_the_others():
    joined = concatenate([rewarded(0, 2, "b", (0, 1)), rewarded(5, 1, "a", (0,))])
    assert joined.rewards.names == ("b", "a")  # in the order in which they came
    np.testing.assert_array_equal(joined.rewards.by_name["b"][:, 0], [0, 1, np.nan])
    np.testing.assert_array_equal(joined.rewards.by_name["a"][:, 0], [np.nan, np.nan, 5])
    assert joined.rewards.total[:, 0].tolist() == [0, 1, 5]
    assert joined.number_of_tokens == 3 * 10 + 3 * G * T


def test_rollouts_are_cut_at_a_part_of_their_length_that_keeps_every_token():
    rollouts = rewarded(0, 2, "a", (0, 1))
    longer = {"tokens": np.int32, "mask": bool, "rollout_log_probs": np.float32}
    rollouts = rollouts.replace(**{name: np.ones((2, G, 10), t) for name, t in longer.items()})
    lengths = {}
    for longest in range(11):
        cut = rollouts.replace(mask=rollouts.mask & (np.arange(10) < longest))
        assert cut.longest == longest
        cut = cut.cut(cut.longest)
        assert cut.mask.sum() == 2 * G * longest and cut.texts is rollouts.texts
        assert cut.tokens.shape == cut.mask.shape == cut.rollout_log_probs.shape
        lengths[longest] = cut.tokens.shape[-1]
    assert list(lengths.values()) == [2, 2, 2, 3, 5, 5, 10, 10, 10, 10, 10]


@pytest.mark.parametrize("axes", [{}, {"data": 2, "fsdp": 2}], ids=["one device", "four"])
def test_abstract_rollouts_are_the_inputs_on_the_mesh(axes):
    mesh = make_mesh(**axes)
    rollouts = rewarded(0, 4, "a", (0, 1, 2, 3))
    prompt = jax.tree.map(jnp.asarray, rollouts.prompt)
    placed = rollouts.shard(mesh, prompt)
    assert placed.texts is placed.rewards is placed.records is placed.row_ids is None
    for got, want in zip(
        jax.tree.leaves(placed.replace(prompt=None)),
        jax.tree.leaves(abstract(prompt, mesh, G, T).replace(prompt=None)),
        strict=True,
    ):
        assert (got.shape, got.dtype, got.sharding) == (want.shape, want.dtype, want.sharding)
