"""Measures one thing at a time and prints JSON.

    python -m rrft_jax.bench grpo --preset=hf_baseline [--checkpoint=DIR] [--repeats=5]
    python -m rrft_jax.bench update --preset=hf_baseline [--checkpoint=DIR] [--repeats=5]
    python -m rrft_jax.bench repeated --preset=hf_baseline [--checkpoint=DIR] [--repeats=5]
    python -m rrft_jax.bench sampler [--preset=long_tail] [--checkpoint=DIR] [--cache_chunk=256]
        [--temperature=1 --top_k=0 --top_p=1] [--repeats=9]
    python -m rrft_jax.bench data [--samples=128] [--repeats=5]
    python -m rrft_jax.bench rewards [--repeats=5]

`grpo` times the three parts of a GRPO step on random pictures: `generate` (sampling, no early
end), `reference` (log-probabilities without gradient) and `update` (log-probabilities, penalty,
backward pass, AdamW), medians in seconds after one warming run, and `step`, their sum.

`update` times the last of them alone: tokens a second, and the share of the device's peak that the
model's own operations make up (model FLOPs utilisation) where that peak is known.

`repeated` times the same update, in turns with it, with every prompt and picture repeated for each
of its completions: what sharing them saves.

`sampler` times sampling with forced lengths: 14 prompts times 8 samples, all of 128 tokens, and of
lengths with a long tail (mean 128, maximum 512); and what a decoding step takes beside the bytes
that it must read (weights, keys and values, once each), as a share of the device's bandwidth where
that is known.

`data` reads picture files of two sizes through the loader, and, in turns with it, through a bare
pool of as many threads that does nothing but open them and call transformers' PIL image processor.

`rewards` scores, for each task and its usual rewards, 1,024 completions of 512 words and signs in
groups of 8, and a batch of 112, half of them without tags and with a formula, so that math-verify
has to read them: median seconds once the workers are up.
"""

import argparse
import json
import sys

from rrft_jax.bench.data import bench_data
from rrft_jax.bench.grpo import bench_grpo
from rrft_jax.bench.rewards import bench_rewards
from rrft_jax.bench.sampler import bench_sampler
from rrft_jax.bench.update import bench_repeated, bench_update
from rrft_jax.bench.workload import PRESETS
from rrft_jax.errors import UserError
from rrft_jax.rollout import SamplingParams

ON_A_WORKLOAD = {
    "grpo": (bench_grpo, "the three parts of a GRPO step"),
    "update": (bench_update, "the update alone, beside what the device could do"),
    "repeated": (bench_repeated, "the update, and the same with every prompt repeated"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rrft_jax.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, summary) in ON_A_WORKLOAD.items():
        command = commands.add_parser(name, help=summary)
        command.add_argument("--preset", choices=PRESETS, default="hf_baseline")
        command.add_argument("--checkpoint", help="a Qwen2-VL folder instead of random weights")
        command.add_argument("--repeats", type=int, default=5)
    command = commands.add_parser("sampler", help="sampling, and what a long tail of lengths costs")
    command.add_argument("--preset", choices=PRESETS, default="long_tail")
    command.add_argument("--checkpoint", help="a Qwen2-VL folder instead of random weights")
    command.add_argument("--cache_chunk", type=int, default=256, help="as in the configs")
    command.add_argument("--temperature", type=float, default=1.0)
    command.add_argument("--top_k", type=int, default=0)
    command.add_argument("--top_p", type=float, default=1.0)
    command.add_argument("--seed", type=int, default=0, help="of the order of the lengths")
    command.add_argument("--repeats", type=int, default=9)
    command = commands.add_parser("data", help="the loader, beside transformers' image processor")
    command.add_argument("--samples", type=int, default=128)
    command.add_argument("--repeats", type=int, default=5)
    command = commands.add_parser("rewards", help="what a batch's rewards take")
    command.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    try:
        if args.command == "rewards":
            result = bench_rewards(args.repeats)
        elif args.command == "data":
            result = bench_data(args.samples, args.repeats)
        elif args.command == "sampler":
            sampling = SamplingParams(args.temperature, args.top_k, args.top_p)
            result = bench_sampler(
                PRESETS[args.preset],
                args.checkpoint,
                sampling,
                args.cache_chunk,
                args.repeats,
                args.seed,
            )
        else:
            run, _ = ON_A_WORKLOAD[args.command]
            result = run(PRESETS[args.preset], args.checkpoint, args.repeats)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
