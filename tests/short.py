"""What makes a run of a command short."""

QUICK = "--xla_backend_optimization_level=0"  # as the other tests compile, on one device
SHORT = (
    "--config.grpo.batch_size=2",
    "--config.grpo.num_generations=2",
    "--config.eval.samples=4",
    "--config.eval.batch_size=4",
    "--config.eval.max_new_tokens=8",
    "--config.sampling.max_new_tokens=8",
)
