"""Write `docs/configs.md`: how configs work, and every field with its default and meaning.

python -m rrft_jax.settings_page
"""

import pathlib

from rrft_jax import markdown
from rrft_jax.fields import Described, described, sections
from rrft_jax.settings import Config, GRPOSettings, SFTSettings, StageSettings
from rrft_jax.tasks import CUSTOM, TASKS
from rrft_jax.training import objectives

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "configs.md"

_TEMPLATE = """\
<!-- Written by `python -m rrft_jax.settings_page`: change that file, not this one. -->
# Configs

A run is described by one config: its model, task and paradigm, its data, and the fields of each
stage.

```sh
python -m rrft_jax.main --config=configs/grpo.py:model=2b,task=visual_counting \\
    --config.model.path=Qwen2-VL-2B-Instruct --config.grpo.num_generations=16
```

The part behind the colon chooses an experiment by name. Each `--config.KEY=VALUE` then overrides
a field.

{files}

The other choices are `model` ([the list](models-and-tasks.md#models)) and `task`
({tasks}), or a
[module with a `TASK`](own-task.md).
The first one is the default. `configs/grpo.py` also takes an `objective`, which names the
[method of a paper](algorithms.md#methods). A config that trains also takes a `tuning`: `full`
trains all weights, `lora` a [low-rank adapter](lora.md). A choice that does not exist is an error
that lists the others.

## Where a value comes from

{places}

A value in a lower row wins. An experiment is plain data: names of fields, as the command line has
them, and values. A run writes the config that it used to `config.json` in its folder.

`--print_config` prints every field, its value, where the value comes from, and what it means. Then
the command ends.

```sh
python -m rrft_jax.main --config=configs/grpo.py:objective=dapo --config.grpo.steps=100 \\
    --print_config
```

The defaults are those of the public Reason-RFT scripts, with one exception: 16 prompts per batch,
because 14 do not divide over a slice. The fields of `tiny` suit the packaged base model and two CPU
cores. Its values of `data.thought_dropout` and `grpo.rewards` count for its drawn samples. Other
data have the default and the task's rewards. The console then names the other fields of the demo.

## A config of your own

A config file is a Python file with a function `get_config`. Begin with one that exists, and assign:

```python
# mypackage/my_run.py
from configs import grpo


def get_config(arg=""):
    config = grpo.get_config(arg)
    config.grpo.advantages = "rloo"
    config.grpo.rewards.repetition = 0.1
    config.data.path = "my_dataset"
    return config
```

```sh
python -m rrft_jax.main --config=mypackage/my_run.py:model=2b \\
    --config.model.path=Qwen2-VL-2B-Instruct
```

The file can lie in any folder. [Install](install.md#which-config) says what it can import.

Another size of model is one more entry in `MODELS`; a tuned experiment is one more file of fields
beside `configs/tiny_visual_counting.py`, and one more line in `EXPERIMENTS` of `configs/grpo.py`.

## From Python

`rrft_jax.settings.make` turns nested dicts into the typed settings that the code works with, and
checks them. A missing field has its default. A field that is unknown or makes no sense is an error
that names it.

```python
from rrft_jax import settings

config = settings.make({{"stages": ["grpo"], "grpo": {{"beta": 0.0}}}})
assert config.grpo.num_generations == 8
```

## Mistakes

An unknown key, a wrong type or a value without sense ends in one line on the console and exit code
1, before anything is compiled. So does a value of yours that has no effect beside the others, such
as `grpo.kl_in=reward` without a weight of the KL. A field that was renamed is an error with the new
name.

## Every field

A run that has begun may resume with another value of a field that is marked "Free", and with a
larger one of a field that is marked "May grow".
[Outputs](outputs.md#change-a-run-that-has-begun) says what follows. All other fields are settled
when the run begins.

{fields}
"""

_FILES = (
    ("`configs/grpo.py`", "`reason_rft`, `reason_rft_zero`", "SFT and GRPO; GRPO alone"),
    ("`configs/sft.py`", "`cot_sft`, `ans_sft`", "SFT"),
    (
        "`configs/eval.py`",
        "`reason_rft`, `reason_rft_zero`, `cot_sft`, `ans_sft`, `zero_shot`",
        "none: evaluation alone",
    ),
)
_PLACES = (
    (
        "`rrft_jax/settings.py`",
        "every field: its default, its meaning, the values that make sense",
    ),
    (
        "`rrft_jax/tasks/`",
        "the task's rewards and epochs, and whether it reuses samples",
    ),
    ("`configs/base.py`: `MODELS`", "the fields of a model"),
    (
        "`configs/tiny_visual_counting.py` and its neighbours `tiny_*`",
        "all fields of an experiment with the packaged model, and its result",
    ),
    ("`configs/objectives.py`", "the settings of a method, by the name of its objective"),
    ("`TUNINGS` in `configs/base.py`", "the rank of an adapter, and its learning rates"),
    ("a config file of your own", "the fields that it assigns"),
    ("`--config.KEY=VALUE`", "the fields that this run changes"),
)


def page() -> str:
    """Return the text of `docs/configs.md`."""
    parts = [_section("", Config)]
    for name, section in sections(Config).items():
        if name == "sft":
            parts.append(_stages())
        parts.append(_section(name, section))
    return _TEMPLATE.format(
        files=markdown.table(("file", "paradigms, the default first", "stages"), _FILES),
        places=markdown.table(("place", "holds"), _PLACES),
        tasks=", ".join(f"`{task}`" for task in (*TASKS, CUSTOM)),
        fields="\n\n".join(parts),
    )


def _section(name: str, section: type) -> str:
    of_both = {found.own.name for found in described(StageSettings)}
    shared = of_both if issubclass(section, StageSettings) else set()
    rows = (
        (f"`{found.key}`", markdown.code(found.default), _meaning(found), _values(found))
        for found in described(section, f"{name}." if name else "")
        if found.own.name not in shared
    )
    table = markdown.table(("field", "default", "meaning", "values"), rows)
    title = f"### `{name}`" if name else "### The run"
    has_rows = table.count("\n") > 1
    return "\n\n".join([title, section.__doc__ or "", *([table] if has_rows else [])])


def _stages() -> str:
    """Return the part on the fields that both stages have, with the defaults of each."""
    defaults = [
        {found.own.name: markdown.code(found.default) for found in described(stage)}
        for stage in (SFTSettings, GRPOSettings)
    ]
    rows = (
        (f"`{found.key}`", *(own[found.key] for own in defaults), _meaning(found), _values(found))
        for found in described(StageSettings)
    )
    header = ("field", "default of `sft`", "default of `grpo`", "meaning", "values")
    return f"### `sft` and `grpo`\n\n{StageSettings.__doc__}\n\n{markdown.table(header, rows)}"


def _meaning(found: Described) -> str:
    """Return the meaning of a field, and whether a run may change it."""
    if found.free is None:
        return found.meaning
    return f"{found.meaning} {'May grow' if found.free.only_more else 'Free'}."


def _values(found: Described) -> str:
    section, _, name = found.key.rpartition(".")
    if section == "grpo" and name in objectives.TERMS:
        return f"one of {', '.join(objectives.TERMS[name])}"
    return found.rule.wanted


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
