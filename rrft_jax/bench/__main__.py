"""Measure one thing at a time and print JSON.

    python -m rrft_jax.bench grpo --preset=hf_baseline [--checkpoint=DIR] [--repeats=5]
    python -m rrft_jax.bench update --preset=hf_baseline [--checkpoint=DIR] [--repeats=5]
    python -m rrft_jax.bench repeated --preset=hf_baseline [--checkpoint=DIR] [--repeats=5]
    python -m rrft_jax.bench growth [--repeats=3]
    python -m rrft_jax.bench lora --preset=hf_baseline [--rank=16] [--checkpoint=DIR] [--repeats=5]
    python -m rrft_jax.bench sampler [--preset=long_tail] [--checkpoint=DIR] [--cache_chunk=256]
        [--temperature=1 --top_k=0 --top_p=1] [--repeats=9]
    python -m rrft_jax.bench tower [--repeats=5]
    python -m rrft_jax.bench data [--path=DATASET] [--samples=128] [--repeats=5]
    python -m rrft_jax.bench rewards [--repeats=5]
    python -m rrft_jax.bench asking [--checkpoint=DIR] [--repeats=3]
    python -m rrft_jax.bench start [--config=configs/grpo.py] [--steps=1]
    python -m rrft_jax.bench checkpoint --family=qwen2_5_vl --out=DIR [--preset=tiny]
        [--dtype=bfloat16] [--seed=0] [--max_shard_bytes=5000000000]

All results are medians over `--repeats` runs after a warming one; times are in seconds.

`grpo` times the three parts of a GRPO step on random pictures: `generate` (sampling, no early
end), `reference` (log-probabilities without gradient) and `update` (log-probabilities, penalty,
backward pass, AdamW). `step` is their sum.

`update` times the update alone. It reports tokens a second. If the device's peak is known, it also
reports the share of the peak that the model's own operations reach (model FLOPs utilisation).

`repeated` times the update in turns with a second form of it, in which every prompt and picture is
repeated for each of its completions. The difference is the gain of sharing them.

`growth` times steps of small shapes, and changes one size at a time: completions per prompt, tokens
of a prompt, new tokens, prompts, patches of a picture. It reports the exponent of each part's time
between neighbouring sizes, beside the same with every prompt repeated, and the exponent of the
memory that the update takes for temporaries. 1 is linear growth, 0 is none.

`lora` times the update of an adapter in turns with that of all weights. It also compares two ways
to sample: the adapter is added to the sampler's weights once, or stays beside them.

`sampler` times sampling with forced lengths: 14 prompts times 8 samples, first all of 128 tokens,
then with a long tail of lengths (mean 128, maximum 512). It compares the time of a decoding step
with the bytes that the step must read (weights, keys and values, once each). If the device's
bandwidth is known, it reports the share of it that the step reaches.

`tower` times a small vision tower of Qwen2.5-VL in three forms, in turns, for pictures of four
sizes: all blocks see windows, seven in eight do as in the released models (`mixed`), or all see the
whole picture.

`data` reads picture files of two sizes through the loader and, in turns with it, the same pictures
in a parquet file, and the files through a bare pool of as many threads. The pool only opens the
files and calls transformers' PIL image processor. With `--path` it reads the first samples of a
data set, and tells the most memory that the process has held.

`rewards` scores two batches for each task with its usual rewards: 1,024 completions of 512 words
and signs in groups of 8, and 112 completions. In the second batch half of the completions have no
tags but a formula, so that math-verify has to read them. The workers are up before the first
measurement.

`asking` asks about 20 pictures of five sizes, with nothing compiled (`first`) and once more
(`compiled`): each picture in a shape of its own, by `ask`, and by `ask_all`.

`start` times two starts of GRPO, each in a process of its own, from the beginning of the process to
the end of its first steps. The second one finds the compiled programs of the first. Its parts are
imports, loading (weights, data, the first batch), tracing, compiling, and the execution of the
first step. There are no evaluations before the steps, and no SFT.

`checkpoint` measures nothing. It writes a checkpoint folder of any family with random weights, to
start runs and measurements from. `--preset` is `tiny`, `small` (the model of `grpo`), or a released
model such as `qwen2_5_vl_3b`, whose sizes the model gets. The tokenizer is that of the packaged
model, whatever the sizes.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from rrft_jax.bench import checkpoint
from rrft_jax.bench.asking import bench_asking
from rrft_jax.bench.data import bench_data
from rrft_jax.bench.growth import bench_growth
from rrft_jax.bench.grpo import bench_grpo
from rrft_jax.bench.lora import bench_lora
from rrft_jax.bench.rewards import bench_rewards
from rrft_jax.bench.sampler import bench_sampler
from rrft_jax.bench.start import bench_start
from rrft_jax.bench.tower import bench_tower
from rrft_jax.bench.update import bench_repeated, bench_update
from rrft_jax.bench.workload import PRESETS
from rrft_jax.errors import UserError
from rrft_jax.models.families import FAMILIES
from rrft_jax.prog import prog
from rrft_jax.rollout import SamplingParams

ON_A_WORKLOAD = {
    "grpo": (bench_grpo, "the three parts of a GRPO step"),
    "update": (bench_update, "the update alone, beside what the device could do"),
    "repeated": (bench_repeated, "the update, and the same with every prompt repeated"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; print the result as JSON; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.bench"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, summary) in ON_A_WORKLOAD.items():
        command = commands.add_parser(name, help=summary)
        command.add_argument("--preset", choices=PRESETS, default="hf_baseline")
        command.add_argument("--checkpoint", help="a folder instead of random weights")
        command.add_argument("--repeats", type=int, default=5)
    command = commands.add_parser("growth", help="the exponents of a step's time and memory")
    command.add_argument("--repeats", type=int, default=3)
    command = commands.add_parser("lora", help="the update of an adapter, and of all weights")
    command.add_argument("--preset", choices=PRESETS, default="hf_baseline")
    command.add_argument("--checkpoint", help="a folder instead of random weights")
    command.add_argument("--rank", type=int, default=16, help="the rank of the adapter")
    command.add_argument("--repeats", type=int, default=5)
    command = commands.add_parser("sampler", help="sampling, and what a long tail of lengths costs")
    command.add_argument("--preset", choices=PRESETS, default="long_tail")
    command.add_argument("--checkpoint", help="a folder instead of random weights")
    command.add_argument("--cache_chunk", type=int, default=256, help="as in the configs")
    command.add_argument("--temperature", type=float, default=1.0)
    command.add_argument("--top_k", type=int, default=0)
    command.add_argument("--top_p", type=float, default=1.0)
    command.add_argument("--seed", type=int, default=0, help="of the order of the lengths")
    command.add_argument("--repeats", type=int, default=9)
    command = commands.add_parser("data", help="the loader, beside transformers' image processor")
    command.add_argument("--path", default="", help="a data set in place of pictures made for it")
    command.add_argument("--samples", type=int, default=128)
    command.add_argument("--repeats", type=int, default=5)
    command = commands.add_parser("rewards", help="what a batch's rewards take")
    command.add_argument("--repeats", type=int, default=5)
    command = commands.add_parser("tower", help="a vision tower with windows, and without them")
    command.add_argument("--repeats", type=int, default=5)
    command = commands.add_parser("asking", help="questions about pictures of many sizes")
    command.add_argument("--checkpoint", help="a run or a folder; default: the packaged model")
    command.add_argument("--repeats", type=int, default=3)
    command = commands.add_parser("start", help="a first and a second start of a run")
    command.add_argument("--config", default="configs/grpo.py", help="a config with GRPO")
    command.add_argument("--steps", type=int, default=1)
    command = commands.add_parser("checkpoint", help="write a folder with random weights")
    command.add_argument("--family", choices=FAMILIES, required=True)
    command.add_argument("--preset", default=checkpoint.TINY_PRESET, help="default: %(default)s")
    command.add_argument("--out", required=True, help="the folder to write")
    command.add_argument("--dtype", choices=checkpoint.DTYPES, default="bfloat16")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--max_shard_bytes", type=int, default=5_000_000_000)
    args = parser.parse_args(argv)
    try:
        if args.command == "asking":
            result = bench_asking(args.checkpoint, args.repeats)
        elif args.command == "start":
            result = bench_start(args.config, args.steps)
        elif args.command == "growth":
            result = bench_growth(args.repeats)
        elif args.command == "lora":
            result = bench_lora(PRESETS[args.preset], args.checkpoint, args.repeats, args.rank)
        elif args.command == "checkpoint":
            result = checkpoint.write_checkpoint(
                args.out, args.family, args.preset, args.dtype, args.seed, args.max_shard_bytes
            )
        elif args.command == "rewards":
            result = bench_rewards(args.repeats)
        elif args.command == "tower":
            result = bench_tower(args.repeats)
        elif args.command == "data":
            result = bench_data(args.samples, args.repeats, args.path)
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
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
