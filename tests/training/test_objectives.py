"""Every variant of the objective against its own computation, by loops over NumPy numbers.

`expected` is written from the papers. It has the policy's log-probabilities twice: `new` is what a
gradient moves, `held` is what papers put under a stop-gradient, so that finite differences over
`new` are the gradient that is meant.
"""

import types

import jax
import ml_collections
import numpy as np
import pytest

from configs import grpo as program
from rrft_jax.errors import UserError
from rrft_jax.settings import GRPOSettings, make
from rrft_jax.training import loss, objectives
from tests.minibatches import minibatch

B, G, T = 2, 3, 4
CASES = {
    "reason_rft": {},
    "without a reference": {"beta": 0.0},
    "first of its updates": {"old": None},
    "first, corrected": {"old": None, "importance_sampling": "token", "ratio": "cispo"},
    "k1": {"kl": "k1", "beta": 0.5},
    "k2": {"kl": "k2", "beta": 0.5},
    "k3": {"kl": "k3", "beta": 0.5},
    "penalty in the reward": {"kl_in": "reward", "beta": 0.5},
    "dual clip": {"dual_clip": 1.4},
    "entropy": {"entropy_bonus": 0.1},
    "token": {"aggregation": "token"},
    "token, truncated": {"aggregation": "token", "mask_truncated": True},
    "sequence, truncated": {"mask_truncated": True},
    "constant, truncated": {"aggregation": "constant", "mask_truncated": True},
    "corrected by token": {"importance_sampling": "token", "importance_cap": 1.5},
    "corrected by sequence": {"importance_sampling": "sequence", "importance_cap": 1.5},
    "DAPO": {"aggregation": "token", "epsilon_high": 0.28, "beta": 0.0, "mask_truncated": True},
    "Dr. GRPO": {"aggregation": "constant", "beta": 0.0},
    "GSPO": {"ratio": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04, "beta": 0.0},
    "CISPO": {"ratio": "cispo", "epsilon_low": 1.0, "epsilon_high": 0.2, "aggregation": "token"},
}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    new = -rng.exponential(size=(B, G, T))
    lengths = np.array([[4, 1, 3], [2, 4, 4]])
    return {
        "new": new,
        "old": new + 0.5 * rng.normal(size=new.shape),
        "reference": new + 0.5 * rng.normal(size=new.shape),
        "sampler": new + 0.4 * rng.normal(size=new.shape),
        "entropy": rng.exponential(size=new.shape),
        "advantages": rng.normal(size=(B, G)),
        "mask": np.arange(T) < lengths[..., None],
        "finished": np.array([[False, True, True], [True, True, False]]),
    }


def expected(config, x, new, held, entropy):
    """(loss, metrics) of one batch."""
    total, metrics = 0.0, {"entropy": [], "clip_fraction": [], "mismatch_kl": [], "kl": []}
    counted = [
        (b, g) for b, g in np.ndindex(B, G) if x["finished"][b, g] or not config.mask_truncated
    ]
    all_tokens = sum(x["mask"][i].sum() for i in counted)
    for b, g in np.ndindex(B, G):
        tokens = [(b, g, t) for t in range(T) if x["mask"][b, g, t]]
        advantage, terms, seen = x["advantages"][b, g], [], {name: [] for name in metrics}
        old = {i: held[i] if config.old is None else x["old"][i] for i in tokens}
        off = {i: old[i] - x["sampler"][i] for i in tokens}
        for i in tokens:
            ratio = np.exp(new[i] - old[i])
            if config.ratio == "sequence":
                ratio = np.prod([np.exp(new[j] - old[j]) for j in tokens]) ** (1 / len(tokens))
            low, high = 1 - config.epsilon_low, 1 + config.epsilon_high
            bounded = min(max(ratio, low), high)
            if config.ratio == "cispo":
                weight = min(max(np.exp(held[i] - old[i]), low), high)
                term, clipped = weight * advantage * new[i], ratio < low or ratio > high
            else:
                term, clipped = min(ratio * advantage, bounded * advantage), False
                clipped = bounded * advantage < ratio * advantage
                if config.dual_clip and advantage < 0 and term < config.dual_clip * advantage:
                    term, clipped = config.dual_clip * advantage, True
            if config.importance_sampling != "none":
                weight = np.exp(
                    off[i] if config.importance_sampling == "token" else sum(off.values())
                )
                term *= min(weight, config.importance_cap)
            term += config.entropy_bonus * entropy[i]
            if config.beta:
                d = x["reference"][i] - new[i]
                kl = {"k1": -d, "k2": d**2 / 2, "k3": np.exp(d) - d - 1}[config.kl]
                term -= config.beta * kl if config.kl_in == "loss" else 0
                seen["kl"].append(kl)
            terms.append(term)
            seen["entropy"].append(entropy[i])
            seen["clip_fraction"].append(clipped)
            seen["mismatch_kl"].append(-off[i])
        for name, values in seen.items():
            metrics[name] += [np.mean(values)] if values else []
        if (b, g) in counted:
            total += (
                sum(terms)
                / {
                    "sequence": len(tokens) * B * G,
                    "token": all_tokens,
                    "constant": B * G * T,
                }[config.aggregation]
            )
    return -total, {name: np.mean(values) for name, values in metrics.items() if values}


def slope(function, x, step=1e-6):
    """The gradient by central differences."""
    result = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i], down[i] = x[i] + step, x[i] - step
        result[i] = (function(up) - function(down)) / (2 * step)
    return result


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_loss_and_gradient_are_those_of_the_papers(case, arrays):
    config = ml_collections.ConfigDict(
        {**program.get_config().grpo.to_dict(), "old": "given", **case}
    )
    x = jax.tree.map(lambda v: v.astype(np.float32) if v.dtype == float else v, arrays)
    batch = minibatch(
        None,
        x["mask"],
        x["advantages"],
        finished=x["finished"],
        rollout=x["sampler"],
        old=None if config.old is None else x["old"],
        reference=x["reference"] if config.beta else None,
    )
    batch = batch.replace(weights=loss.weigh(config, batch.rollouts))
    policy = types.SimpleNamespace(score_with_entropy=lambda params, *_: params)
    (value, metrics), gradients = jax.value_and_grad(loss.loss, argnums=2, has_aux=True)(
        policy, config, (x["new"], x["entropy"]), batch
    )
    new, entropy = arrays["new"], arrays["entropy"]
    want, want_metrics = expected(config, arrays, new, new, entropy)
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(value, want, **close)
    assert want_metrics.keys() == metrics.keys() - {"importance_weight"}
    for name, number in want_metrics.items():
        np.testing.assert_allclose(metrics[name], number, **close, err_msg=name)
    by_new = slope(lambda v: expected(config, arrays, v, new, entropy)[0], new)
    by_entropy = slope(lambda v: expected(config, arrays, new, new, v)[0], entropy)
    np.testing.assert_allclose(gradients[0], by_new, **close)
    np.testing.assert_allclose(gradients[1], by_entropy, **close)
    assert np.abs(by_new).max() > 1e-3


def test_the_numbers_of_these_tests_reach_every_bound(arrays):
    """Otherwise a bound that does nothing would pass them."""
    x, mask = arrays, arrays["mask"]
    ratio = np.exp(x["new"] - x["old"])
    negative = x["advantages"][..., None] < 0
    assert (mask & negative & (ratio > 1.4)).any()
    assert (mask & ~negative & (ratio > 1.28)).any() and (mask & negative & (ratio < 0.8)).any()
    weight = np.exp(x["old"] - x["sampler"])
    assert 0 < (mask & (weight > 1.5)).sum() < mask.sum()
    product = np.exp(np.sum((x["old"] - x["sampler"]) * mask, axis=-1))
    assert 0 < (product > 1.5).sum() < product.size


@pytest.mark.parametrize("kind", objectives.ADVANTAGES)
def test_advantages_equal_numpy(kind):
    rewards = np.array([[1.0, 2.0, 0.0, 1.5], [1.0, 1.0, 1.0, 1.0]], np.float32)
    got = objectives.ADVANTAGES[kind](rewards)
    for (b, g), reward in np.ndenumerate(rewards):
        group = rewards[b].astype(float)
        want = {
            "group_std": (reward - group.mean()) / (np.std(group, ddof=1) + 1e-4),
            "group": reward - group.mean(),
            "batch_std": (reward - group.mean()) / (np.std(rewards.ravel(), ddof=1) + 1e-4),
            "rloo": reward - np.mean(np.delete(group, g)),
        }[kind]
        assert got[b, g] == pytest.approx(want, rel=1e-5, abs=1e-6)
    np.testing.assert_array_equal(got[1], 0)  # all alike: nothing to learn


def test_the_penalty_in_the_reward_is_the_sum_over_a_completion(arrays):
    x = arrays
    got = loss.completion_kl("k1", x["mask"], loss.Scores(x["old"], x["reference"]))
    for i in np.ndindex(B, G):
        assert got[i] == pytest.approx(
            np.sum((x["old"][i] - x["reference"][i])[x["mask"][i]]), rel=1e-5
        )


@pytest.mark.parametrize("kind", objectives.KLS)
def test_kl_estimates_have_the_mean_and_gradient_that_their_docstrings_say(kind):
    rng = np.random.default_rng(0)
    logits, other = rng.normal(size=(2, 5))
    estimate = objectives.KLS[kind]

    def log_softmax(z):
        return z - np.log(np.exp(z).sum())

    def mean(z, drawn_from):  # exact: over all tokens, which `drawn_from` draws
        p = np.exp(log_softmax(drawn_from))
        return np.sum(p * np.asarray(estimate(log_softmax(z), log_softmax(other)), float))

    def kl(z):
        p = np.exp(log_softmax(z))
        return np.sum(p * (log_softmax(z) - log_softmax(other)))

    if kind != "k2":
        assert mean(logits, logits) == pytest.approx(kl(logits), rel=1e-4)
    got = slope(lambda z: mean(z, logits), logits, 1e-3)
    if kind == "k1":
        np.testing.assert_allclose(got, 0, atol=1e-3)
    if kind == "k2":
        np.testing.assert_allclose(got, slope(kl, logits), atol=2e-3)


def test_the_choices_of_each_term_are_checked():
    for field, choices in objectives.TERMS.items():
        for choice in choices:
            objectives.check(GRPOSettings(**{field: choice}))
        with pytest.raises(UserError) as error:
            objectives.check(GRPOSettings(**{field: "other"}))
        assert str(error.value) == (
            f"--config.grpo.{field}=other: expected one of {', '.join(choices)}"
        )
    objectives.check(None)


def test_every_choice_says_in_a_line_of_its_own_what_it_computes_and_who_proposed_it():
    for choices in objectives.TERMS.values():
        for choice in choices.values():
            assert choice.description and choice.origin
            assert choice.paper.startswith(("https://", "http://"))


@pytest.mark.parametrize("dual_clip", [0.5, 1.0, -1.0])
def test_a_dual_clip_that_would_cut_the_plain_ratio_is_refused(dual_clip):
    config = program.get_config()
    config.grpo.dual_clip = dual_clip
    with pytest.raises(UserError, match="more than 1, or 0 for none"):
        make(config.to_dict())
    config.grpo.dual_clip, config.grpo.ratio = 3.0, "cispo"
    with pytest.raises(UserError, match="dual_clip=3.0: grpo.ratio=cispo bounds the ratio"):
        make(config.to_dict())


@pytest.mark.parametrize("kind", objectives.KLS)
def test_a_kl_is_finite_however_far_policy_and_reference_are_apart(kind):
    furthest = -1e18 if kind == "k2" else -3e38  # of k2 the square has to have a place in float32
    for low in (-89.0, -200.0, -1e4, furthest):
        for log_probs, reference in ((low, -0.01), (-0.01, low)):
            value, slope = jax.value_and_grad(objectives.KLS[kind])(log_probs, reference)
            assert np.isfinite([value, slope]).all()


def test_k3_is_exact_up_to_its_bound():
    for delta in np.linspace(-9, 2.5, 24, dtype=np.float32):
        value, slope = jax.value_and_grad(objectives.k3)(np.float32(0), delta)
        assert value == pytest.approx(np.exp(delta) - delta - 1, rel=1e-5, abs=1e-6)
        assert slope == pytest.approx(1 - np.exp(delta), rel=1e-5, abs=1e-6)
    assert objectives.k3(-89.0, -0.01) == objectives.MAX_K3


@pytest.mark.parametrize("advantage", [-2.0, 2.0])
@pytest.mark.parametrize("kind", objectives.RATIOS)
def test_a_surrogate_is_finite_however_far_the_policy_has_moved(kind, advantage):
    mask, advantages = np.ones((1, 1, 2), bool), np.array([[advantage]], np.float32)

    def total(log_probs, old):
        clip = objectives.Clip(low=0.2, high=0.2)
        value, _ = objectives.RATIOS[kind](log_probs, old, advantages, mask, clip)
        return value.sum()

    for far in (-89.0, -1e4):
        here, there = np.full((1, 1, 2), -0.01, np.float32), np.full((1, 1, 2), far, np.float32)
        for log_probs, old in ((here, there), (there, here)):
            value, slope = jax.value_and_grad(total)(log_probs, old)
            assert np.isfinite(value) and np.isfinite(slope).all()
