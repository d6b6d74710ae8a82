"""The same GRPO step as PyTorch trainers do it: transformers, with every prompt repeated.

`generate` samples all completions of all prompts, each behind its own copy of prompt and picture.
The reference and the update run over the same repeated prompts. Weights, gradients and moments are
bfloat16, so torch moves less memory than a run of this package, which keeps them in float32.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

from rrft_jax.accelerator import scale, torch_device
from rrft_jax.accelerator.findings import Finding, told
from rrft_jax.bench import workload as workloads
from rrft_jax.bench.workload import Workload
from rrft_jax.models.families import FAMILIES
from rrft_jax.settings import GRPOSettings, SamplingSettings

ROWS = 4  # sequences of a forward and backward pass
FAMILY = "qwen2_vl"  # of the measured step


def check() -> Iterator[Finding]:
    """Yield the seconds of the parts of a step by transformers in torch."""
    torch = torch_device.require()
    theirs = TorchStep(scale.here().step, torch_device.name())
    yield told("torch", torch.__version__)
    theirs.generate(2)  # warms
    tokens, seconds = theirs.timed(lambda: theirs.generate(theirs.step.new_tokens))
    yield told("completions, seconds", seconds)
    theirs.timed(lambda: theirs.score(tokens, rows=ROWS))
    log_probs, seconds = theirs.timed(lambda: theirs.score(tokens))
    yield told("reference, seconds", seconds)
    theirs.timed(lambda: theirs.update(tokens, log_probs, rows=ROWS))
    _, seconds = theirs.timed(lambda: theirs.update(tokens, log_probs))
    yield told("update, seconds", seconds)
    if theirs.device == "cuda":
        yield told("memory at its peak, GiB", torch.cuda.max_memory_allocated() / 2**30)


@dataclasses.dataclass
class TorchStep:
    """A model of transformers with random weights, its optimizer, and repeated prompts.

    Attributes:
      step: the shapes.
      device: torch's name of the device.
    """

    step: Workload
    device: str

    def __post_init__(self):
        import torch
        from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

        raw = FAMILIES[FAMILY].write(self.step.model)
        config = CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
        with torch.device(self.device):
            self.model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
        self.model.generation_config.eos_token_id = None  # no end before the last token
        fused = self.device == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=fused)

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """The prompts, each repeated for each of its completions."""
        import torch

        step, config = self.step, self.step.model
        prompt = workloads.random_prompt(step)
        prompt.tokens[:, 3] = config.vision_start_token
        tokens = torch.tensor(prompt.tokens.astype("int64"))
        inputs = {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "pixel_values": torch.tensor(prompt.patches).to(torch.bfloat16),
            "image_grid_thw": torch.tensor([[1, step.rows, step.cols]] * step.prompts),
            "mm_token_type_ids": (tokens == config.image_token).int(),
        }
        repeated = {
            name: x.to(self.device).repeat_interleave(step.samples, dim=0)
            for name, x in inputs.items()
        }
        repeated["pixel_values"] = repeated["pixel_values"].flatten(0, 1)
        return repeated

    def timed(self, run: Any) -> tuple[Any, float]:
        """Return the result of a function and its seconds."""
        self._wait()
        began = time.perf_counter()
        result = run()
        self._wait()
        return result, time.perf_counter() - began

    def generate(self, tokens: int) -> Any:
        """Return completions [R,T]."""
        chosen = SamplingSettings()
        out = self.model.eval().generate(
            **self.inputs,
            do_sample=True,
            temperature=chosen.temperature,
            top_k=chosen.top_k,
            top_p=chosen.top_p,
            max_new_tokens=tokens,
            pad_token_id=0,
            suppress_tokens=sorted(self.step.model.visual_tokens),
        )
        return out[:, self.step.prompt_tokens :]

    def score(self, tokens: Any, rows: int | None = None) -> Any:
        """Return the log-probabilities [R,T] of completions, without gradient."""
        import torch

        with torch.no_grad():
            parts = [self._log_probs(part) for part in self._parts(tokens, rows)]
        return torch.cat(parts)

    def update(self, tokens: Any, reference: Any, rows: int | None = None) -> None:
        """Run one update by GRPO's loss with a penalty."""
        import torch

        self.model.train()
        beta, number = GRPOSettings().beta, len(tokens)
        for first, part in zip(range(0, number, ROWS), self._parts(tokens, rows)):
            log_probs = self._log_probs(part)
            gap = reference[first : first + ROWS] - log_probs
            penalty = torch.exp(gap) - gap - 1
            ratio = torch.exp(log_probs - log_probs.detach())
            loss = -(ratio - beta * penalty).mean(dim=1).sum() / number
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _parts(self, tokens: Any, rows: int | None) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield (inputs, completions) of some sequences at a time; of the first `rows` alone."""
        import torch

        patches = self.step.rows * self.step.cols
        for first in range(0, len(tokens) if rows is None else rows, ROWS):
            own = slice(first, first + ROWS)
            part = {name: x[own] for name, x in self.inputs.items() if name != "pixel_values"}
            pixels = slice(first * patches, (first + ROWS) * patches)
            part["pixel_values"] = self.inputs["pixel_values"][pixels]
            completion = tokens[own]
            for name, fill in (
                ("input_ids", None),
                ("attention_mask", 1),
                ("mm_token_type_ids", 0),
            ):
                more = completion if fill is None else torch.full_like(completion, fill)
                part[name] = torch.cat([part[name], more.to(part[name].dtype)], dim=1)
            yield part, completion

    def _log_probs(self, part: tuple[dict[str, Any], Any]) -> Any:
        import torch

        inputs, tokens = part
        kept = tokens.shape[1] + 1
        logits = self.model(**inputs, use_cache=False, logits_to_keep=kept).logits[:, :-1].float()
        taken = torch.gather(logits, 2, tokens[..., None])[..., 0]
        return taken - torch.logsumexp(logits, dim=-1)

    def _wait(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
