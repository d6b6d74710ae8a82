"""A step of TRL's trainers, by their defaults.

Three settings are not the defaults. The model is float32, like the other side's. Completions have
one length. Gradient checkpointing is off, because it costs time, and memory is not short.
"""

import sys

import processor as processors
import torch
import work as works
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from turns import Turns


def main(folder: str) -> None:
    """Run the steps of a work's folder, each in its turn."""
    turns, work = Turns(), works.read(folder)
    torch.set_num_threads(work.threads)
    trainer = {"grpo": grpo_trainer, "sft": sft_trainer}[work.name](work, folder)
    trainer.add_callback(Turn(turns, trainer, work))
    turns.ready("trl", "torch", "transformers")
    trainer.train()


class Turn(TrainerCallback):
    """A turn goes from the end of a step to the end of the next one, so its data counts."""

    def __init__(self, turns, trainer, work):
        """Count from the trainer's start."""
        self.turns, self.trainer, self.work, self.seen = turns, trainer, work, 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Wait for the first turn."""
        self.turns.wait()

    def on_step_end(self, args, state, control, **kwargs):
        """Tell the end of a turn, and wait for the next one."""
        tokens, self.seen = state.num_input_tokens_seen - self.seen, state.num_input_tokens_seen
        rows = args.per_device_train_batch_size
        if self.work.name == "grpo":
            new = self.work.new_tokens * rows
            counts = dict(completions=rows, completion_tokens=completion_tokens.pop())
            counts["prompt_tokens"] = (tokens - new) // rows
        else:
            # The template ends each text with a line break, which the other side doesn't train on.
            counts = dict(rows=rows, tokens=tokens - rows)
        self.turns.done(**counts)
        control.should_training_stop = not self.turns.wait()


completion_tokens: list[int] = []


def different_characters(completions, completion_ids, **kwargs) -> list[float]:
    """Return the rewards of completions."""
    completion_tokens.append(sum(len(ids) for ids in completion_ids))
    return [works.reward(messages[0]["content"]) for messages in completions]


def grpo_trainer(work: works.Work, folder: str) -> GRPOTrainer:
    """Return the trainer of GRPO with its reference."""
    rows = [
        {"prompt": [{"role": "user", "content": work.question}], "image": picture}
        for picture in work.pictures
    ]
    arguments = GRPOConfig(
        **common(work, folder),
        per_device_train_batch_size=len(rows) * work.samples,
        num_generations=work.samples,
        max_completion_length=work.new_tokens,
        beta=work.beta,
        generation_kwargs={
            "min_new_tokens": work.new_tokens,
            "suppress_tokens": work.banned,
        },
    )
    return GRPOTrainer(
        model=work.checkpoint,
        reward_funcs=different_characters,
        args=arguments,
        train_dataset=with_pictures(rows),
        processing_class=processors.load(work.checkpoint),
    )


def sft_trainer(work: works.Work, folder: str) -> SFTTrainer:
    """Return the trainer of SFT on the target's tokens."""
    rows = [
        {
            "prompt": [{"role": "user", "content": work.question}],
            "completion": [{"role": "assistant", "content": work.target}],
            "image": picture,
        }
        for picture in work.pictures
    ]
    arguments = SFTConfig(
        **common(work, folder),
        per_device_train_batch_size=len(rows),
        max_length=None,
        include_num_input_tokens_seen="all",  # the other trainer counts them itself
    )
    return SFTTrainer(
        model=work.checkpoint,
        args=arguments,
        train_dataset=with_pictures(rows),
        processing_class=processors.load(work.checkpoint),
    )


def common(work: works.Work, folder: str) -> dict:
    """Return the arguments of both trainers."""
    return dict(
        output_dir=f"{folder}/trl",
        model_init_kwargs={"dtype": "float32"},
        learning_rate=work.learning_rate,
        max_steps=work.turns,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def with_pictures(rows: list[dict]) -> Dataset:
    """Return a data set whose column "image" holds pictures."""
    from datasets import Image

    return Dataset.from_list(rows).cast_column("image", Image())


if __name__ == "__main__":
    main(sys.argv[1])
