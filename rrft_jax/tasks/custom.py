"""Custom: questions of the user's own, with no words of ours but where thought and answer go.

The config's section `custom` says the rest: the instruction, and the kind of the answers. The
rewards are those of `grpo.rewards`. A task that needs more than this, such as drawings or a score
of its own, is a module with a `TASK`.
"""

from rrft_jax.tasks.answers import ANY
from rrft_jax.tasks.task import Task
from rrft_jax.tasks.wording import Wording

INSTRUCTION = "Think inside <think> </think>, then answer inside <answer> </answer>."

TASK = Task(
    name="custom",
    wording=Wording(instructions={"": INSTRUCTION}, zero_shot={"": ""}),
    rewards={"accuracy": 1.0, "format": 1.0},
    splits=("train", "validation", "test"),
    answers=ANY,
)
