"""A step of Tunix's learner, by its defaults, on prompts without pictures.

Three settings are not the defaults. The temperature is 1. The padded length of a prompt is its
length, and the cache has just the room that it needs. No completion ends early.
"""

import json
import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np
import optax
import work as works
from flax import nnx
from tokens import Tokenizer
from tunix.models.qwen2.model import ModelConfig
from tunix.models.qwen2.params import create_model_from_safe_tensors
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig
from turns import Turns


def main(folder: str) -> None:
    """Run the steps of a work's folder, each in its turn."""
    turns, work = Turns(), works.read(folder)
    tokenizer = Tokenizer(work)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    with mesh:
        cluster = RLCluster(
            actor=model(work.checkpoint, mesh),
            reference=model(work.checkpoint, mesh),
            tokenizer=tokenizer,
            cluster_config=cluster_config(work, mesh, len(tokenizer.encode(tokenizer.prompt))),
        )
        config = GRPOConfig(num_generations=work.samples, beta=work.beta)
        learner = GRPOLearner(cluster, config, different_characters)
        turns.ready("google-tunix", "jax", "flax")
        learner.train(batches(turns, work, tokenizer, cluster.actor_trainer.model))


def batches(turns: Turns, work: works.Work, tokenizer: Tokenizer, actor) -> Iterator[dict]:
    """Yield the same prompts once for each turn. A turn goes from one batch to the next one."""
    while turns.wait():
        yield {"prompts": np.array(work.prompts * [tokenizer.prompt])}
        jax.block_until_ready(nnx.state(actor))
        turns.done(**tokenizer.counts())


def model(checkpoint: str, mesh: jax.sharding.Mesh):
    """Load the decoder of a checkpoint; Tunix leaves the tower out."""
    raw = json.loads((pathlib.Path(checkpoint) / "config.json").read_text())
    config = ModelConfig(
        num_layers=raw["num_hidden_layers"],
        vocab_size=raw["vocab_size"],
        embed_dim=raw["hidden_size"],
        hidden_dim=raw["intermediate_size"],
        num_heads=raw["num_attention_heads"],
        head_dim=raw["hidden_size"] // raw["num_attention_heads"],
        num_kv_heads=raw["num_key_value_heads"],
        rope_theta=raw["rope_theta"],
        norm_eps=raw["rms_norm_eps"],
        use_tied_embedding=raw["tie_word_embeddings"],
    )
    return create_model_from_safe_tensors(checkpoint, config, mesh)


def cluster_config(work: works.Work, mesh: jax.sharding.Mesh, tokens: int) -> ClusterConfig:
    """Return the configuration of all parts; a prompt has so many tokens."""
    return ClusterConfig(
        role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
        training_config=RLTrainingConfig(
            actor_optimizer=optax.adamw(work.learning_rate),
            eval_every_n_steps=work.turns + 1,
            max_steps=work.turns + 1,
        ),
        rollout_config=RolloutConfig(
            max_tokens_to_generate=work.new_tokens,
            max_prompt_length=tokens,
            kv_cache_size=tokens + work.new_tokens,
            temperature=1.0,
        ),
    )


def different_characters(prompts, completions, **kwargs) -> list[float]:
    """Return the rewards of completions."""
    return [works.reward(text) for text in completions]


if __name__ == "__main__":
    main(sys.argv[1])
