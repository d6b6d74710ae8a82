"""GRPO on a random model: fresh groups, penalized rewards, going on where it stopped."""

import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import grpo as program
from rrft_jax.assets import TINY
from rrft_jax.data import Batching, Format, Processor, Source, make_loader
from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.data.thumbnails import Thumbnails
from rrft_jax.errors import UserError
from rrft_jax.hf.pretrained import read_config
from rrft_jax.models import VLM
from rrft_jax.monitoring import MetricsWriter, compilations
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import Rollouts
from rrft_jax.tasks.drawings import counting
from rrft_jax.training import grpo
from rrft_jax.training.grpo import GRPO
from rrft_jax.training.trainer import Trainer
from rrft_jax.workdir import stage_folder
from tests import tiny

STEPS = 3
FIELDS = {
    "batch_size": 4, "num_generations": 2, "num_iterations": 2, "mini_batches": 2,
    "dynamic_sampling": 6, "kl_in": "reward", "kl": "k1", "beta": 0.1, "learning_rate": 1e-3,
    "importance_sampling": "token", "moment_dtype": "bfloat16", "reference_dtype": "int8",
}  # fmt: skip


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(TINY)


def settings(**fields):
    config = program.get_config()
    config.grpo.update(FIELDS | fields)
    config.checkpoint_every = 1
    config.rollouts_every = 1
    config.sampling.max_new_tokens = 8
    return config


def loader_of(sources, processor):
    form = Format("reason_rft", targets=False, max_prompt_length=512, max_target_length=8)
    batching = Batching(4, seed=0, shuffle=True, epochs=None, max_buckets=1)
    return make_loader(sources, processor, form, batching)


def train(workdir, processor, steps=STEPS, repetition=1.0, **fields):
    """Parameters after all steps, and the loader's state; `repetition` weighs a reward."""
    config = settings(**fields)
    mesh = make_mesh()
    released, _ = read_config(TINY)
    text = dataclasses.replace(tiny.CONFIG.text, vocab_size=released.text.vocab_size, depth=1)
    vision = dataclasses.replace(tiny.CONFIG.vision, depth=1)
    model = VLM(dataclasses.replace(released, text=text, vision=vision), mesh=mesh)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), jax.jit(model.init)(jax.random.key(0)))
    params = jax.device_put(params, sharding.replicated(mesh))
    examples = [counting.sample("train", 0, i, TINY_SIZE) for i in range(24)]
    sources = [  # a random model has no format; how often it repeats itself varies
        Source(examples[:12], rewards={"format": 1.0}),
        Source(examples[12:], rewards={"repetition": {"weight": repetition, "size": 1}}),
    ]
    loader = loader_of(sources, processor)
    algorithm = GRPO(config, model, processor, params, steps)
    params, position = run(workdir, algorithm, loader, steps)
    loader.close()
    for job in algorithm.ahead._jobs.values():  # what was compiled ahead
        assert job.cancelled() or job.exception() is None
    return params, position


def run(workdir, algorithm, loader, steps):
    """Trains as the recipe does, but for evaluations."""
    metrics, rollouts = (MetricsWriter(workdir / f"{n}.jsonl") for n in ("metrics", "rollouts"))
    trainer = Trainer(algorithm, loader, stage_folder(workdir, "grpo"), steps)
    for log in (metrics, rollouts):
        log.truncate_after("grpo", trainer.done)
    for step in trainer.steps():
        for rollout in step.rollouts:
            rollouts.write("grpo", step.number, Thumbnails(workdir).keep(rollout))
        metrics.write("grpo", step.number, step.metrics)
        trainer.check(step)
        trainer.save(step, best=None)
    trainer.close()
    return trainer.state.params, loader.get_state()


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, processor):
    workdir = tmp_path_factory.mktemp("loop")
    return workdir, *train(workdir, processor)


def test_flat_groups_are_replaced_and_counted(finished):
    workdir, _, position = finished
    metrics = lines(workdir / "metrics.jsonl")
    assert sum(m["sampled_batches"] for m in metrics) == position["batches"] > STEPS
    assert sum(m["replaced_groups"] for m in metrics) > 0
    complete = set()
    for m in metrics:
        left = 4 * m["flat_groups"] - m["replaced_groups"]
        assert left == 0 or (left > 0 and m["sampled_batches"] == 1 + FIELDS["dynamic_sampling"])
        complete |= {m["step"]} if left == 0 else set()
    rewards = {}
    for row in lines(workdir / "rollouts.jsonl"):
        if row["step"] in complete:
            group = rewards.setdefault((row["step"], row["id"]), set())
            group.add(row["rewards"].get("repetition"))
    assert rewards and all(len(group) == 2 for group in rewards.values())  # none without spread


def test_mismatch_and_penalty_are_logged(finished):
    for m in lines(finished[0] / "metrics.jsonl"):
        # float32 on both sides, temperature 1; but the sampler never draws a picture's tokens.
        assert abs(m["mismatch_kl"]) < 0.02
        assert m["importance_weight"] == pytest.approx(1, abs=0.02)
        assert np.isfinite(m["kl"])


@pytest.mark.slow
def test_a_resumed_run_samples_replaces_and_learns_the_same(finished, processor, tmp_path):
    workdir, params, position = finished
    shutil.copytree(workdir, tmp_path / "run")
    # The newest checkpoint is half copied: it goes on from the one before.
    newest = tmp_path / "run" / "checkpoints" / "grpo" / str(STEPS)
    (newest / "state" / "manifest.ocdbt").unlink()
    compilations.listen()
    before = compilations.total("grpo_step"), compilations.kept("grpo_step")
    again, position_again = train(tmp_path / "run", processor)
    assert position_again == position
    # A restored state goes through the same program, which comes from the disk.
    after = compilations.total("grpo_step"), compilations.kept("grpo_step")
    assert after[0] - before[0] == after[1] - before[1] == 1
    assert (newest / "state" / "manifest.ocdbt").exists()
    jax.tree.map(np.testing.assert_array_equal, again, params)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        clocked = ("seconds", "tokens_per_second", "compilations")
        got, want = (
            [{k: v for k, v in m.items() if not k.startswith(clocked)} for m in lines(d / name)]
            for d in (tmp_path / "run", workdir)
        )
        assert got == want and len(got) >= STEPS


@pytest.fixture
def lengths(monkeypatch):
    """The lengths of completions in updates; completions end after two of eight tokens."""
    seen, sample, make = [], grpo.generate, grpo.make_update

    def ended(*args):
        rollouts = sample(*args)
        return rollouts.replace(mask=rollouts.mask & (np.arange(8) < 2))

    def watched(*args):
        update = make(*args)

        def call(state, learnt, *rest):
            seen.append(learnt.rollouts.tokens.shape[-1])
            return update(state, learnt, *rest)

        call.lower = update.lower
        return call

    monkeypatch.setattr(grpo, "generate", ended)
    monkeypatch.setattr(grpo, "make_update", watched)
    return seen


def test_steps_without_a_signal_leave_the_weights_as_they_are(processor, tmp_path, lengths):
    """A bfloat16 policy, an int8 reference, the penalty in the reward: all of it is rounding."""
    with_none = {"repetition": 0.0, "dynamic_sampling": 0}
    start, _ = train(tmp_path / "none", processor, steps=0, **with_none)
    params, _ = train(tmp_path / "some", processor, steps=1, **with_none)
    jax.tree.map(np.testing.assert_array_equal, params, start)
    (metrics,) = lines(tmp_path / "some" / "metrics.jsonl")
    assert metrics["flat_groups"] == 1 and metrics["skipped_updates"] == 4
    assert metrics["kl"] == metrics["gradient_norm"] == 0
    assert lengths == [2] * 4  # no place is scored that no completion needs


@pytest.mark.parametrize(
    "name, options, reason",
    [
        ("odd", {"kind": "column"}, r"it failed: returned .*shape \(2, 1\)"),
        ("slow", {}, r"it took longer than its time limit, 0\.3 s a completion"),
    ],
)
def test_a_reward_that_always_fails_ends_the_run_in_its_first_step(
    name, options, reason, tmp_path, processor, monkeypatch, capfd
):
    tokens = jnp.zeros((4, 2, 8), jnp.int32)
    zeros = tokens.astype(jnp.float32)
    said = Rollouts(None, tokens, tokens == 0, tokens[..., 0] == 0, zeros)
    # Nothing is to be compiled: it doesn't come to an update.
    monkeypatch.setattr(grpo, "generate", lambda *_: said)
    monkeypatch.setattr(grpo.states, "create", lambda *_: types.SimpleNamespace(params={}))
    monkeypatch.setattr(grpo.states, "layout", lambda _: None)
    monkeypatch.setattr(grpo, "make_update", lambda *_: None)
    monkeypatch.setattr(grpo, "make_scorer", lambda *_: None)
    examples = [counting.sample("train", 0, i, TINY_SIZE) for i in range(4)]
    rewards = {f"tests.rewards.victims.{name}": {"weight": 1, **options}}
    loader = loader_of([Source(examples, rewards=rewards)], processor)
    model = types.SimpleNamespace(mesh=make_mesh())
    config = settings(beta=0.0, reward_seconds=2.0 if name == "odd" else 0.3)
    algorithm = GRPO(config, model, processor, {}, STEPS)
    with pytest.raises(UserError, match=f"victims.{name}': on all 8 completions.*{reason}"):
        run(tmp_path, algorithm, loader, STEPS)
    loader.close()
    assert f"victims.{name}' failed on a completion" in capfd.readouterr().err
    assert lines(tmp_path / "metrics.jsonl") == []
