"""The lines about a sample that its tokens don't tell: answer, rewards, part, other columns."""

import json
from collections.abc import Iterator

from rrft_jax import rewards
from rrft_jax.console import visible
from rrft_jax.data.dry_call import own_reply, rewards_of
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.samples import Source
from rrft_jax.settings import Config
from rrft_jax.tasks.example import Example

_LONGEST = 200  # characters of a value
_BARE = ("ans_sft", "zero_shot")  # paradigms whose replies have no layout to reward


def facts(
    config: Config, stage: str, prompt_end: str, source: Source, example: Example
) -> Iterator[str]:
    """Yield the lines about an example.

    Args:
      config: the config of a run.
      stage: the stage that the example belongs to, or "eval".
      prompt_end: the last turn of a prompt, `Processor.prompt_end`.
      source: the data set that the example is from.
      example: the example.
    """
    yield f"    answer: {_short(example.answer) or 'none'}"
    if example.part:
        yield f"    part: {_short(example.part)}"
    if config.paradigm not in _BARE:
        yield f"    rewards of {_own_rewards(config, stage, prompt_end, source, example)}"
    for name, value in example.extra.items():
        text = json.dumps(value, ensure_ascii=False, default=str)
        yield f"    column {_short(name)}: {_short(text)}"


def _own_rewards(
    config: Config, stage: str, prompt_end: str, source: Source, example: Example
) -> str:
    """Return what each reward gives to the row's own answer, in the layout that SFT teaches.

    A row without an answer is scored with an empty completion.
    """
    named, seconds = rewards_of(config, source), rewards.guard.SECONDS
    if config.grpo is not None:
        seconds = config.grpo.reward_seconds
    if stage == "eval" and config.eval.rewards:
        named, seconds = config.eval.rewards, config.eval.reward_seconds
    what, text = "its answer", ""
    if not example.answer:
        what = "an empty completion"
    else:
        try:
            taught = stage == "sft"
            text = own_reply(example, source, config.paradigm, prompt_end, taught=taught)
        except BadSample as error:
            return f"{what}: none: {visible(str(error))}"
    shown = []
    for term in rewards.read_terms(named):
        given = {"step": 1, "lengths": [len(text.split())], **term.options}
        with rewards.guard.limit(seconds):
            values, failures = rewards.scores(term.name, [text], example, **given)
        reason = f" (failed: {_short(failures[0].reason)})" if failures else ""
        shown.append(f"{term.name} {values[0]:.3g}{reason}")
    return f"{what}: {', '.join(shown) or 'this config has none'}"


def _short(text: str) -> str:
    text = visible(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
