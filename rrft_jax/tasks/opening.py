"""The opening of a reply: a tag that the chat template writes, and that counts as the model's.

The template of a Thinking model ends each prompt in an open tag, and the model goes on inside it:

    prompt      ...<|im_start|>assistant\\n<think>\\n
    completion  Two cubes.\\n</think>\\n<answer>\\n2\\n</answer>
    reply       <think>\\nTwo cubes.\\n</think>\\n<answer>\\n2\\n</answer>

Rewards, answers and files have the reply. The sampler and SFT have the completion. `Task.opening`
says which tag counts. Under any other template the two are the same text.
"""

import os

from rrft_jax.errors import UserError
from rrft_jax.tasks.task import Task


def opening(task: Task, prompt: str) -> str:
    """Return the end of a prompt that counts as the beginning of the reply; "" if there is none.

    Args:
      task: the task, with the tag that counts.
      prompt: the prompt as the template writes it, or its last turn.
    """
    text = prompt.rstrip()
    is_open = task.opening and text.endswith(task.opening)
    return prompt[len(text) - len(task.opening) :] if is_open else ""


def reply_of(task: Task, prompt: str, completion: str) -> str:
    """Return the whole reply of a completion: with the tag that the prompt has opened in front."""
    return opening(task, prompt) + completion


def completion_of(task: Task, prompt: str, reply: str) -> str:
    """Return the completion that makes a reply whole: without the tag that the prompt has opened.

    A reply that does not begin with the tag, such as a bare answer, closes it at once.

    Raises:
      UserError: the reply has the tag behind other parts, so no completion makes it whole.
    """
    opened = opening(task, prompt)
    if not opened:
        return reply
    before, found, inside = reply.partition(task.opening)
    if not found:
        return f"\n{task.opening.replace('<', '</')}\n\n{reply}"
    if before.strip():
        raise UserError(
            f"the chat template of the model begins each reply with {task.opening}, but a reply "
            f"of this variant begins with {before.strip()[:9]!r}; set data.variant=, or give a "
            "model whose template does not open the thought"
        )
    space = opened.removeprefix(task.opening)
    return inside[len(os.path.commonprefix([space, inside])) :]
