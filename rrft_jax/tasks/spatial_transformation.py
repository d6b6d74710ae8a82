"""Spatial transformation: two pictures, and as the answer the calls that turn one into the other.

The data set is Reason-RFT's, made from TRANCE; its shifted splits show the second picture from the
left or from the right. Without a data set, `drawings/transformation.py` draws scenes.
"""

from rrft_jax.rewards.transformation import are_calls
from rrft_jax.tasks.answers import CALLS
from rrft_jax.tasks.drawings import transformation
from rrft_jax.tasks.task import PaperResults, Task
from rrft_jax.tasks.wording import BARE, BRIEF, Wording

_RULES = """\
Explain how the first picture becomes the second by a sequence of 1 to 4 calls, in order. \
Each call has the form func(object_id, 'value'). The calls and their values are:
change_size(object_id, value): 'small', 'medium', 'large'
change_color(object_id, value): 'yellow', 'gray', 'cyan', 'blue', 'brown', 'green', 'red', 'purple'
change_material(object_id, value): 'glass', 'metal', 'rubber'
change_shape(object_id, value): 'cube', 'sphere', 'cylinder'
change_position(object_id, value): 'front', 'behind', 'left', 'right', 'front_left', \
'front_right', 'behind_left', 'behind_right'
An object is listed as ('object_id', 'shape', 'size', 'color', 'material').
"""
_REASONED = (
    _RULES + "{parts}\n"
    "Then give only the sequence of calls, separated by commas, inside <answer> </answer>."
)
_CALLS = "a sequence of calls"

_WORDING = Wording(
    instructions={
        "": _REASONED.format(
            parts="Compare the pictures object by object inside <think> </think>."
        ),
        "caption": _REASONED.format(
            parts=(
                "First outline how you will go about it inside <summary> </summary>. "
                "Then describe what both pictures show inside <caption> </caption>. "
                "Then compare them object by object inside <think> </think>."
            )
        ),
        "brief": BRIEF.format(kind=_CALLS),
    },
    zero_shot={
        "": _RULES + "Give the sequence of calls alone, separated by commas, without any "
        "explanation.",
        "brief": BARE.format(kind=_CALLS),
    },
    variants=("caption", "brief"),
    prefaced=("caption",),
)

_PAPER = PaperResults(
    columns=(("id", ""), ("ood-left", ""), ("ood-right", "")),
    rows={
        "2b": {
            "zero-shot": (3.78, 4.60, 4.67),
            "ANS-SFT": (77.39, 49.24, 50.33),
            "CoT-SFT": (64.37, 43.19, 42.86),
            "Reason-RFT-Zero": (42.13, 34.07, 33.41),
            "Reason-RFT": (74.61, 64.05, 64.08),
        },
        "7b": {
            "zero-shot": (13.53, 12.72, 12.78),
            "ANS-SFT": (82.19, 54.29, 54.83),
            "CoT-SFT": (81.31, 47.90, 47.80),
            "Reason-RFT-Zero": (67.67, 57.20, 56.15),
            "Reason-RFT": (79.97, 59.36, 58.61),
        },
    },
)

TASK = Task(
    name=transformation.NAME,
    sample=transformation.sample,
    wording=_WORDING,
    rewards={"transformation_full": 1.0, "format": 1.0},
    splits=tuple(transformation.SPLITS),
    answers=CALLS,
    recognizes=lambda answer, answers: are_calls(answer),
    paper=_PAPER,
)
