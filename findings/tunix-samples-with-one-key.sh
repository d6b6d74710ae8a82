#!/usr/bin/env bash
# Tunix's GRPO samples with the same random numbers in every step.
#
# Setup: a GRPOLearner with the usual sampler ("vanilla"), temperature 1, a random model. Three
# batches hold the same question. The learning rate is 0, so the policy stays the same, and only the
# random numbers can tell the steps apart. `RolloutConfig.seed` is None, an int, or a JAX array, which
# is what its annotation asks for.
# Expected: a step draws other completions of the question than the step before it. A seed makes the
# whole run repeatable, not each of its steps.
# Seen: with None and with an int, all steps draw the very same completions. Within a group they
# differ. The sampler makes its key anew at each call: `jax.random.PRNGKey(0)`, or that of the int.
# So a question that comes again is explored only as far as the weights have changed. Nothing warns
# of it. With an array, the second step fails, because the first one has donated the array.
# Versions: google-tunix 0.1.7, jax 0.10.2, flax 0.12.8, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet google-tunix==0.1.7 jax==0.10.2 flax==0.12.8 transformers==5.12.1

JAX_PLATFORMS=cpu "$dir/venv/bin/python" - 2> "$dir/messages" <<'PY' || { tail -n 3 "$dir/messages"; exit 1; }
import sys

import jax
import numpy as np
import optax
from flax import nnx
from tunix.models.qwen2.model import ModelConfig, Qwen2
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig


class Letters:
    """A token is a letter."""

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, tokens):
        return "".join(map(chr, tokens))

    def bos_id(self):
        return None

    def eos_id(self):
        return 0

    def pad_id(self):
        return 0


def model():
    config = ModelConfig(
        num_layers=1, vocab_size=128, embed_dim=16, hidden_dim=32, num_heads=2, head_dim=8,
        num_kv_heads=1, rope_theta=10_000, norm_eps=1e-6,
    )
    return Qwen2(config, rngs=nnx.Rngs(0))


def groups(steps, seed):
    """Return the completions that each step has drawn."""
    drawn = []

    def reward(prompts, completions, **kwargs):
        drawn.append(list(completions))
        return [float(len(set(text))) for text in completions]

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    config = ClusterConfig(
        role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
        training_config=RLTrainingConfig(
            actor_optimizer=optax.sgd(0.0), eval_every_n_steps=steps, max_steps=steps
        ),
        rollout_config=RolloutConfig(
            max_tokens_to_generate=16, max_prompt_length=8, kv_cache_size=24, temperature=1.0,
            seed=seed,
        ),
    )
    with mesh:
        cluster = RLCluster(
            actor=model(), reference=model(), tokenizer=Letters(), cluster_config=config
        )
        learner = GRPOLearner(cluster, GRPOConfig(num_generations=4), reward)
        learner.train([{"prompts": np.array(["question"])}] * steps)
    return drawn


changed = []
for name, seed in (("None", None), ("an int", 7)):
    first, *others = groups(3, seed)
    print(f"{name}: {len(set(first))} different completions in the first step,",
          f"the next steps draw the same ones: {[other == first for other in others]}")
    if len(set(first)) < 2 or len(others) != 2 or any(other != first for other in others):
        changed.append(name)
try:
    groups(3, jax.random.PRNGKey(7))
    changed.append("an array")
except RuntimeError as error:
    print("an array:", str(error).splitlines()[0])
    if "Array has been deleted" not in str(error):
        raise
if changed:
    print("CHANGED with", " and ".join(changed))
    sys.exit("the steps differ, or none failed")
print("as stated")
PY
