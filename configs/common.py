"""What every run shares: the argument string of a config, and the fields that all stages read.

A config is a small program. `--config=configs/grpo.py:model=2b,task=visual_counting` calls
`get_config("model=2b,task=visual_counting")`, and `--config.data.path=...` overrides a field of
what it returns. The values for `2b` and `7b` are those of the public Reason-RFT scripts; those of
`tiny` suit the packaged base model and two CPU cores.
"""

import ml_collections

from rrft_jax.errors import UserError
from rrft_jax.tasks import TASKS

MODELS = ("tiny", "2b", "7b")
COUNTING, TRANSFORMATION = "visual_counting", "spatial_transformation"
# Tokens of the longest completion of the tiny model: a little more than its longest target has.
LENGTHS = {"visual_counting": 80, "structure_perception": 120, "spatial_transformation": 176}


def parse(arg: str, paradigms: tuple[str, ...]) -> dict[str, str]:
    """`"model=2b,paradigm=cot_sft"` -> the chosen model, task and paradigm, defaults filled in.

    Args:
      arg: comma-separated `name=choice` pairs, in any order; empty takes every default.
      paradigms: those that the config file can run, its default first.

    Raises:
      UserError: a name or a choice that doesn't exist; the message lists those that do.
    """
    choices = {"model": MODELS, "task": TASKS, "paradigm": paradigms}
    chosen = {"model": "tiny", "task": "visual_counting", "paradigm": paradigms[0]}
    for pair in filter(None, (pair.strip() for pair in arg.split(","))):
        name, _, choice = (part.strip() for part in pair.partition("="))
        if name not in choices:
            raise UserError(
                f"config argument {pair!r}: expected name=choice with name one of "
                f"{', '.join(choices)}"
            )
        if choice not in choices[name]:
            raise UserError(
                f"config argument {pair!r}: {name} is one of {', '.join(choices[name])}"
            )
        chosen[name] = choice
    return chosen


def base(chosen: dict[str, str]) -> ml_collections.ConfigDict:
    """The fields of every config; the stages' own sections come from `sft.py` and `grpo.py`."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.task = chosen["task"]
    config.paradigm = chosen["paradigm"]
    config.stages = ()  # which of "sft" and "grpo" to run, in order; evaluation always follows

    # Steps between checkpoints, between evaluations (0: only after each stage), and between
    # the completions that are kept in rollouts.jsonl.
    config.checkpoint_every = 100
    config.eval_every = 0
    config.rollouts_every = 10
    # The split by whose accuracy the best of a stage's evaluated weights are kept beside the last
    # ones; "" is the first split.
    config.best_split = ""

    config.model = model = ml_collections.ConfigDict()
    model.name = chosen["model"]
    # A Hugging Face folder, or a run's folder, which means its export; "" is the packaged base,
    # which only `tiny` has.
    model.path = ""
    # Of the weights that the optimizer updates. In bfloat16, where they are rounded at random, they
    # take half the memory; their gradients are float32 sums.
    model.dtype = "float32"
    model.compute_dtype = "bfloat16"
    # "auto": splash attention on TPUs, cuDNN on GPUs, XLA elsewhere; or "splash", "cudnn", "xla"
    model.attention = "auto"
    model.remat = "full"  # recompute each layer in the backward pass: "full", "dots" or "none"
    model.logit_chunk = 128  # completion tokens whose logits exist at one time

    config.data = data = ml_collections.ConfigDict()
    # Where samples come from: Reason-RFT's folder or a JSON file, or a TFDS build; without either
    # the pictures are drawn. Several places to train on: rrft_jax/data/sources.py.
    data.path = ""
    data.source = ""  # "tfds:DIR"
    data.file = ""  # another training file of the folder, by its name or a part of it
    data.mixture = ""  # JSON or YAML, a list of places with their weights
    data.image_root = ""  # where the rows' image paths start; "" looks beside the JSON file
    data.prompts = ""  # JSON or YAML with instructions of your own: rrft_jax/data/prompts.py
    data.system_prompt = ""  # takes the place of the instruction after the question
    # Of spatial transformation: "caption" asks for a summary and a caption first, "brief" does not
    # list the calls.
    data.variant = ""
    data.min_pixels = 3136
    data.max_pixels = 480_000
    data.max_prompt_length = 4096  # tokens; a longer row is skipped and counted
    data.max_target_length = 2048
    # `reason_rft` wakes up reasoning on the first samples, and reinforces on the rest. Structure
    # perception has too few samples for that: it reinforces on all of them.
    data.activation_samples = 1600
    data.reuse_activation = TASKS[chosen["task"]].reuse_activation
    data.buckets = 4  # the most shapes that a stage's batches are padded to
    data.workers = 0  # processes that read pictures; 0: threads
    data.thought_dropout = 0.0  # share of the chains of thought that SFT sees emptied
    data.max_skipped_share = 0.5  # of the rows; more broken ones than that end the run

    config.sampling = sampling = ml_collections.ConfigDict()
    sampling.temperature = 0.9
    sampling.top_k = 50  # 0: the whole vocabulary
    sampling.top_p = 0.9  # 1: the whole vocabulary
    sampling.max_new_tokens = 512
    sampling.cache_chunk = 256  # tokens by which the cache of completions grows

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.tasks = ()  # whose held-out splits to evaluate; () is the config's own task
    evaluation.samples = 0  # of each split; 0 takes all (1,000 where they are drawn)
    evaluation.passes = 1  # completions a sample, which its score is the mean of
    evaluation.batch_size = 16
    evaluation.temperature = 0.1  # 0: greedy
    evaluation.top_k = 50
    evaluation.top_p = 0.9
    evaluation.max_new_tokens = 768
    evaluation.sampled = False  # report accuracy at temperature 1 as well

    # Devices along each axis, of all processes together; one may be -1, which takes the rest.
    # `show` prints where each parameter lies.
    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "show": False})
    if model.name != "tiny":
        # All devices share weights and optimizer. The sampler has its weights whole, but for those
        # that `tensor` splits: 15 GB of 7B are too much for a device of 16.
        config.mesh.data = 1
        config.mesh.fsdp = -1
        config.mesh.tensor = {"2b": 1, "7b": 4}[model.name]

    if model.name == "tiny":
        config.checkpoint_every = 20
        model.compute_dtype = "float32"
        model.remat = "none"
        data.buckets = 1  # rows are alike: a second shape costs more than it saves
        # How often SFT answers without a thought, which leaves GRPO to find when to think. To find
        # transformations, the model needs more of the thoughts that there are to learn from.
        data.thought_dropout = 0.3 if config.task == TRANSFORMATION else 0.5
        sampling.temperature = 1.0
        sampling.top_k = 0
        sampling.top_p = 1.0
        if config.paradigm == "reason_rft_zero":
            # The base has never been told how to answer; what stands before the question, and not
            # behind it, leaves it to answer as it can.
            data.system_prompt = (
                "Think inside <think> </think>, then answer inside <answer> </answer>."
            )
        elif config.task == TRANSFORMATION and config.paradigm != "ans_sft":
            data.variant = "brief"  # the rules are longer than all else that this model reads
        sampling.max_new_tokens = LENGTHS[config.task]
        evaluation.samples = 1000
        evaluation.batch_size = 200
        evaluation.temperature = 0.0
        evaluation.max_new_tokens = LENGTHS[config.task] + 16
        evaluation.sampled = config.task == COUNTING
    return config


def adamw(**fields) -> ml_collections.ConfigDict:
    """AdamW as in every public script, and the fields of a stage that go with it."""
    return ml_collections.ConfigDict(
        {
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "clip_norm": 1.0,
            "moment_dtype": "float32",  # of both moments; bfloat16 halves their memory
        }
        | fields
    )
