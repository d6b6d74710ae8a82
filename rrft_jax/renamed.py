"""Config fields that were called otherwise in the release before."""

RENAMED = {
    "grpo.num_samples": "grpo.num_generations",
    "grpo.inner_updates": "grpo.num_iterations",
    "grpo.clip_low": "grpo.epsilon_low",
    "grpo.clip_high": "grpo.epsilon_high",
    "grpo.clip_dual": "grpo.dual_clip",
    "grpo.correction": "grpo.importance_sampling",
    "grpo.correction_cap": "grpo.importance_cap",
}
