"""A step of GRPO as a plain loop: transformers' `generate`, two forward passes, torch's AdamW.

Prompt and picture are repeated for each of their completions, as trainers on transformers do it.
"""

import copy
import sys

import processor as processors
import torch
import work as works
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration
from turns import Turns


def main(folder: str) -> None:
    """Run the steps of a work's folder, each in its turn."""
    turns, work = Turns(), works.read(folder)
    torch.set_num_threads(work.threads)
    step = Step(work)
    turns.ready("transformers", "torch")
    while turns.wait():
        turns.done(**step())


class Step:
    """A step with its reference, on the same prompts each time."""

    def __init__(self, work: works.Work):
        """Load the model."""
        self.work, self.processor = work, processors.load(work.checkpoint)
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(
            work.checkpoint, dtype=torch.float32
        )
        self.reference = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=work.learning_rate)

    def __call__(self) -> dict[str, int]:
        """Run the step, and return what it has counted."""
        work, inputs = self.work, self.inputs()
        prompt_tokens = inputs["input_ids"].shape[1]
        with torch.no_grad():
            tokens = self.model.generate(
                **inputs,
                max_new_tokens=work.new_tokens,
                min_new_tokens=work.new_tokens,
                suppress_tokens=work.banned,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
            )
            reference = self.log_probs(self.reference, inputs, tokens)
        completions = tokens[:, prompt_tokens:]
        texts = self.processor.batch_decode(completions, skip_special_tokens=True)
        rewards = torch.tensor([works.reward(text) for text in texts]).view(-1, work.samples)
        centred = rewards - rewards.mean(1, keepdim=True)
        advantages = (centred / (rewards.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        policy = self.log_probs(self.model, inputs, tokens)
        difference = reference - policy
        penalty = difference.exp() - difference - 1
        ratio = (policy - policy.detach()).exp()
        (work.beta * penalty - ratio * advantages).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            "completions": len(completions),
            "completion_tokens": completions.numel(),
            "prompt_tokens": prompt_tokens,
        }

    def inputs(self) -> dict[str, torch.Tensor]:
        """Read the pictures, and return the model's inputs, once for each completion."""
        work = self.work
        text = self.processor.apply_chat_template(
            work.chat, tokenize=False, add_generation_prompt=True
        )
        pictures = [Image.open(file) for file in work.pictures for _ in range(work.samples)]
        return dict(
            self.processor(text=[text] * len(pictures), images=pictures, return_tensors="pt")
        )

    def log_probs(self, model, inputs: dict, tokens: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of the completions' tokens, one row for each."""
        new, kinds = self.work.new_tokens, inputs["mm_token_type_ids"]
        inputs = inputs | {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "mm_token_type_ids": torch.nn.functional.pad(kinds, (0, new)),
        }
        logits = model(**inputs, logits_to_keep=new + 1).logits[:, :-1]
        chosen = tokens[:, -new:, None]
        return logits.log_softmax(-1).gather(-1, chosen)[..., 0]


if __name__ == "__main__":
    main(sys.argv[1])
