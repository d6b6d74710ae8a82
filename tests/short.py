"""What makes compilation and runs short."""

import importlib.metadata

# For XLA_FLAGS. Nothing is optimised behind XLA's own passes, and one module of LLVM has all code.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"  # they take half of the time; 0.12 has no flag

SHORT = (
    "--config.grpo.batch_size=2",
    "--config.grpo.num_generations=2",
    "--config.eval.samples=4",
    "--config.eval.batch_size=4",
    "--config.eval.max_new_tokens=8",
    "--config.sampling.max_new_tokens=8",
)
