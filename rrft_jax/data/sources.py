"""A config -> the samples of each training stage, and the samples that are held out.

`places.py` reads where samples come from: one place, or the several places of a mixture.

`data.samples` cuts the training samples of every source to its first ones, so that the samples of a
smaller run are among those of a larger one.

Under `reason_rft` the first `data.activation_samples` of every source activate reasoning (SFT), and
its other samples reinforce it (GRPO). A task with too few samples reinforces on all of them
(`data.reuse_activation`).

A mixture changes the training samples only. The held-out samples belong to the config's `data.path`
or `data.source`. If the config has neither, they belong to the mixture's own places, and splits of
one name are joined. `eval.tasks` names the tasks to evaluate, if they differ from the config's own
task; the name of a split then begins with its task, "TASK/id".
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

from rrft_jax.data import drawn, tfds_builder
from rrft_jax.data.files import find_splits, shown
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.places import Place, naming, place_of, read_mixture
from rrft_jax.data.prompts import Prompts, read_prompts
from rrft_jax.data.readers import read_examples
from rrft_jax.data.samples import Source
from rrft_jax.errors import UserError
from rrft_jax.monitoring import say
from rrft_jax.settings import Config
from rrft_jax.tasks import CUSTOM, SPLITS, find
from rrft_jax.tasks.answers import KINDS

DRAWN_TRAINING = 100_000
DRAWN_TEST = 1000
_FIRST = 100  # samples that are looked at for a warning, if looking means reading their pictures


@dataclasses.dataclass(frozen=True)
class Data:
    """The samples of a run: the sources of each training stage and of each held-out split."""

    training: dict[str, list[Source]]  # stage -> sources; only the stages that the config runs
    splits: dict[str, list[Source]]  # in the order of `eval.tasks` and of SPLITS

    @classmethod
    def open(cls, config: Config) -> "Data":
        """Read the data that a config names, and print where each split comes from.

        Raises:
          UserError: something is missing, malformed or contradictory.
        """
        base = place_of(config)
        places = read_mixture(config.data.mixture, base) if config.data.mixture else [base]
        training: dict[str, list[Source]] = {stage: [] for stage in config.stages}
        for place in places if config.stages else ():
            with naming(place.where):
                for stage, source in _training(config, place).items():
                    training[stage].append(source)
        splits: dict[str, list[Source]] = {}
        tested = _tested(config, base, places)
        _check_splits(config, tested)
        for place in tested:
            with naming(place.where):
                for split, source in _held_out(config, place).items():
                    splits.setdefault(_name(config, place.task, split), []).append(source)
        if not splits:
            if not config.stages:
                found = base.path or base.source or config.data.mixture
                raise UserError(
                    f"{found}: no test split of {', '.join(_tasks(config))}; put 'test' or "
                    "'validation' into the name of a file or of its folder"
                )
            say(
                "data: nothing is held out: there will be no accuracy; for one, put 'test' or "
                "'validation' into the name of a file of the folder"
            )
        names = config.eval.splits or [
            _name(config, task, split)
            for task in _tasks(config)
            for split in dict.fromkeys((*SPLITS, *find(task).splits))
        ]
        return cls(training, {name: splits[name] for name in names if name in splits})


def _training(config: Config, place: Place) -> dict[str, Source]:
    """Return the samples that a place gives to each stage of training."""
    first, most = config.data.activation_samples, config.data.samples
    are_drawn = not place.path and not place.source
    if are_drawn and not most:
        start = first if "sft" in config.stages else 0
        parts: dict[str, Sequence[Any]] = {
            "sft": _draw(config, place, "train", config.seed, 0, first),
            "grpo": _draw(config, place, "train", config.seed, start, start + DRAWN_TRAINING),
        }
    else:
        if are_drawn:
            every = _draw(config, place, "train", config.seed, 0, most)
        else:
            every = _cut(_read(config, place, "train"), most)
        parts = {"sft": every, "grpo": every}
        if config.paradigm == "reason_rft":
            parts = {
                "sft": every[:first],
                "grpo": every if _reuses(config, place) else every[first:],
            }
        if not len(parts["grpo"]):
            say(f"{place.label}{len(every)} samples, all of them for SFT: GRPO uses them too")
            parts["grpo"] = every
    prompts = _prompts(config, place)
    if "sft" in config.stages and config.paradigm != "ans_sft":
        _warn_about_thoughts(place, parts["sft"])
    return {
        stage: Source(parts[stage], prompts, place.rewards, place.weight) for stage in config.stages
    }


def _cut(examples: Sequence[Any], most: int) -> Sequence[Any]:
    """Return the first examples, `most` of them; all for 0.

    Raises:
      UserError: there are fewer.
    """
    if most > len(examples):
        raise UserError(
            f"--config.data.samples={most}: there are {len(examples):,} training samples; expected "
            "as many or fewer, or 0 for all"
        )
    return examples[:most] if most else examples


def _reuses(config: Config, place: Place) -> bool:
    """Return whether GRPO uses the samples of SFT again; another task has its own default."""
    if place.task == config.task:
        return config.data.reuse_activation
    return find(place.task).reuse_activation


def _warn_about_thoughts(place: Place, examples: Sequence[Any]) -> None:
    """Print a warning about parts that the targets of SFT will lack."""
    first = _first(examples, _FIRST if place.path or place.source else 1)
    samples = [example for example in first if not isinstance(example, BadSample)]
    if place.variant in find(place.task).wording.prefaced and any(
        not example.preface for example in samples
    ):
        say(
            f"{place.label}the variant asks for a summary and a caption, which the targets lack; "
            "add them to the replies, or choose another data.variant"
        )
    if bare := sum(not example.cot for example in samples):
        many = f"{'first ' if len(first) < len(examples) else ''}{len(samples)}"
        say(
            f"{place.label}{bare} of the {many} samples of SFT have no chain of thought; "
            "theirs is left empty; data.columns.cot=COLUMN names a column of thoughts, and "
            "--config=FILE:paradigm=reason_rft_zero trains without them"
        )


def _first(examples: Sequence[Any], number: int) -> Sequence[Any]:
    """Return the examples of a list, or the first of those that are made when asked for."""
    if isinstance(examples, list):
        return examples
    return [examples[index] for index in range(min(number, len(examples)))]


def _tasks(config: Config) -> tuple[str, ...]:
    """Return the tasks to evaluate."""
    return tuple(config.eval.tasks) or (config.task,)


def _name(config: Config, task: str, split: str) -> str:
    """Return the name of a task's split in results; without `eval.tasks` it has no task."""
    return f"{task}/{split}" if _tasks(config) != (config.task,) else split


def _tested(config: Config, base: Place, places: Sequence[Place]) -> list[Place]:
    """Return the places whose test splits are evaluated, each once."""
    chosen = tuple(config.eval.tasks)
    if config.data.mixture and not (base.path or base.source):
        places = [place for place in places if not chosen or place.task in chosen]
        tested: dict[tuple[str, ...], Place] = {}
        for place in places:  # entries of one place and task have the same test files
            tested.setdefault((place.path, place.source, place.task), place)
        return list(tested.values())
    if len(chosen) > 1 and os.path.isfile(base.path):
        raise UserError(
            f"data.path={base.path}: a file of one task; expected a folder for the eval.tasks "
            f"{', '.join(chosen)}"
        )
    return [_of_task(base, task) for task in _tasks(config)]


def _of_task(place: Place, task: str) -> Place:
    """Return the same place for another task, with its variant if the task has that one."""
    if task == place.task:
        return place
    variant = place.variant if place.variant in find(task).wording.variants else ""
    return dataclasses.replace(place, task=task, variant=variant)


def _check_splits(config: Config, places: Sequence[Place]) -> None:
    """Raise UserError if `eval.splits` names a split that no place has."""
    chosen, found = config.eval.splits, []
    for place in places if chosen else ():
        with naming(place.where):
            found += [_name(config, place.task, split) for split in _held_out_names(place)]
    for name in chosen:
        if name not in found:
            raise UserError(
                f"--config.eval.splits={name}: expected one of {', '.join(found) or 'none'}"
            )


def _held_out_names(place: Place) -> list[str]:
    """Return the names of a place's test splits."""
    if place.source:
        names: Iterable[str] = tfds_builder.splits(place.folder)
    elif place.path:
        names = find_splits(place.path, place.task, place.file)
    else:
        names = find(place.task).held_out
    return [name for name in names if name != "train"]


def _held_out(config: Config, place: Place) -> dict[str, Source]:
    """Return a place's test splits, each cut to `eval.samples`."""
    limit, chosen = config.eval.samples or None, config.eval.splits
    prompts, splits = _prompts(config, place), {}
    for name in _held_out_names(place):
        if chosen and _name(config, place.task, name) not in chosen:
            continue
        if place.path or place.source:
            examples = _read(config, place, name)[:limit]
            _warn_about_training(config, place, name)
        else:  # one seed for all runs, so that they can be compared
            examples = _draw(config, place, name, 0, 0, limit or DRAWN_TEST)
        splits[name] = Source(examples, prompts)
    return splits


def prompts_of(config: Config) -> Prompts:
    """Return the wording of a config's own questions.

    Raises:
      UserError: as `read_prompts`.
    """
    return _prompts(config, place_of(config))


def _prompts(config: Config, place: Place) -> Prompts:
    return read_prompts(
        place.task,
        config.paradigm,
        file=place.prompts,
        system=place.system_prompt,
        variant=place.variant,
        instruction=config.custom.instruction,
    )


def _draw(
    config: Config, place: Place, split: str, seed: int, start: int, stop: int
) -> drawn.DrawnSource:
    size = drawn.TINY_SIZE if config.model.name == "tiny" else drawn.SIZE
    return drawn.DrawnSource(place.task, split, seed, start, stop, size)


def _read(config: Config, place: Place, split: str) -> Sequence[Any]:
    """Return one split of a place on disk; a malformed record is a `BadSample`."""
    examples = _stored(place, split)
    if place.task != CUSTOM or config.custom.answers == "any":
        return examples
    return _OfKind(examples, config.custom.answers)


@dataclasses.dataclass(frozen=True)
class _OfKind(Sequence[Any]):
    """Samples with answers of one kind; a sample with another answer is a `BadSample`."""

    examples: Sequence[Any]
    kind: str  # a name in KINDS

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return _OfKind(self.examples[index], self.kind)
        example, form = self.examples[index], KINDS[self.kind]
        if isinstance(example, BadSample) or form.readable(example.answer):
            return example
        return BadSample(
            "malformed",
            f"sample {example.id}: the answer is {example.answer!r:.60}; expected {form.expected}, "
            f"as custom.answers={self.kind}",
        )


def _stored(place: Place, split: str) -> Sequence[Any]:
    """Return one split of a place on disk as it is read."""
    if place.source:
        say(f"{place.label}{split} from {place.source}")
        examples = tfds_builder.open_source(place.folder, split)
        _warn_about_parts(place, split, examples)
        if examples[0].task != place.task:
            raise UserError(
                f"{place.source}: samples of {examples[0].task}, expected {place.task}; the task "
                "is chosen by --config=FILE:task=CHOICE, or by the 'task' of a mixture's entry"
            )
        return examples
    files = find_splits(place.path, place.task, place.file)
    if split not in files:
        held = ", ".join(f"{name} from {shown(found)}" for name, found in files.items())
        raise UserError(
            f"{place.path}: no training file for {place.task}, only {held}; give the path of a "
            "file, or put 'train' into its name"
        )
    say(f"{place.label}{split} from {shown(files[split])}")
    examples = read_examples(
        place.path, place.task, split, place.image_root, place.file, place.columns
    )
    _warn_about_parts(place, split, examples)
    return examples


def _warn_about_training(config: Config, place: Place, split: str) -> None:
    """Print a warning if the samples of a split are trained on."""
    files = find_splits(place.path, place.task, place.file) if place.path else {}
    if config.stages and files and files[split] == files.get("train"):
        say(
            f"{place.label}{split} is trained on too: its accuracy is not that of held-out data; "
            "give a folder with another file for it, such as test.jsonl beside train.jsonl"
        )


def _warn_about_parts(place: Place, split: str, examples: Sequence[Any]) -> None:
    """Print a warning if a split has no pictures or no answers: their column may not be read."""
    missing, extra = {"picture", "answer"}, {}
    for index in range(len(examples) if isinstance(examples, list) else min(1000, len(examples))):
        example = examples[index]
        if isinstance(example, BadSample):
            continue
        missing -= {"picture"} if example.images else set()
        missing -= {"answer"} if example.answer else set()
        if not missing:
            return
        extra |= dict.fromkeys(example.extra)
    others = f"; the other columns are {', '.join(extra):.200}" if extra else ""
    for part, key, names in (
        ("picture", "image", "'image' or 'images'"),
        ("answer", "answer", "'answer' or 'solution'"),
    ):
        if part in missing:
            say(
                f"{place.label}warning: none of {len(examples):,} samples of {split} has "
                f"{'an' if part == 'answer' else 'a'} {part}; it stands under {names}, or "
                f"--config.data.columns.{key}=COLUMN names its column{others}"
            )
