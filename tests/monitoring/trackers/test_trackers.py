"""Each tracker, read back: a run is killed with its trackers, and resumed from a checkpoint."""

import collections
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rrft_jax.monitoring.trackers import NAMES
from tests.monitoring.trackers.running import EVERY, HOSTILE, STEPS

ROOT = Path(__file__).parents[3]
INSTALLED = [name for name in NAMES if importlib.util.find_spec(name)]
ALL = list(range(1, STEPS["grpo"] + 1))
SHOWN = ALL[::EVERY]
# trackio caps Pillow below the pinned release, so the tests' own environment has none.
needs_trackio = pytest.mark.skipif("trackio" not in INSTALLED, reason="trackio is not installed")


def run(workdir: Path, *arguments, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tests/monitoring/trackers/running.py", workdir, *arguments]
    keep = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return subprocess.run(
        [str(word) for word in command],
        env={**keep, "PYTHONPATH": str(ROOT), "HOME": str(workdir.parent), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run that is killed after step 30, and resumed after step 20, its newest checkpoint."""
    workdir = tmp_path_factory.mktemp("trackers") / "demo"
    names = ",".join(INSTALLED)
    offline = {"WANDB_MODE": "offline"}
    assert run(workdir, names, 0, 30, 1, **offline).returncode < 0
    ended = run(workdir, names, 20, STEPS["grpo"], 0, **offline)
    assert ended.returncode == 0 and "warning" not in ended.stderr, ended.stderr
    return workdir


def test_tensorboard_shows_every_step_once(resumed):
    found = events(resumed)
    assert [event.step for event in found.Scalars("grpo/loss")] == ALL
    assert [event.value for event in found.Scalars("grpo/loss")] == [step / 8 for step in ALL]
    evaluated = found.Scalars("evaluation/id/accuracy")
    assert [(event.step, event.value) for event in evaluated] == [(0, 0.25), (3 + 10, 0.5)]
    assert set(found.Tags()["scalars"]) == {
        "grpo/loss", "evaluation/id/accuracy", "evaluation/id/reward_format",
    }  # fmt: skip
    assert len(list((resumed / "tensorboard").iterdir())) == 2


def test_tensorboard_shows_groups_beside_their_picture(resumed):
    found = events(resumed)
    for group in (0, 1):
        pictures = found.Images(f"grpo/rollouts/group_{group}_picture_0")
        assert [picture.step for picture in pictures] == SHOWN
        assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
        texts = found.Tensors(f"grpo/rollouts/group_{group}")
        assert [text.step for text in texts] == SHOWN
        text = texts[0].tensor_proto.string_val[0].decode()
        assert f"    question {group} ?" in text and "accuracy 1, advantage" in text
        # All that comes from the data or the model is indented, so it is code and no markup.
        ours = [line for line in text.splitlines() if line and not line.startswith("    ")]
        assert set(ours) == {"answer:", "---"} and "onerror" in text


def test_wandb_has_every_step_once_and_its_pictures(resumed):
    rows = wandb_rows(resumed)
    steps = collections.defaultdict(list)
    for row in rows:
        for name in row:
            if name.endswith("/step"):
                steps[name].append(row[name])
    assert steps == {
        "grpo/step": ALL,
        "grpo/rollouts/step": SHOWN,
        "evaluation/id/step": [0, 13],
    }
    assert [row["grpo/loss"] for row in rows if "grpo/loss" in row] == [step / 8 for step in ALL]
    assert [row["_step"] for row in rows] == list(range(len(rows)))  # of one run, if synchronized
    folders = sorted((resumed / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and len({folder.name[-8:] for folder in folders}) == 1
    media = folders[-1] / "files" / "media"
    assert list(media.glob("images/grpo/rollouts/*.png"))
    table = json.loads(next(media.glob("table/grpo/rollouts/*.json")).read_text())
    assert table["columns"] == [
        "prompt", "answer", "picture 1", "completion", "accuracy", "advantage",
    ]  # fmt: skip
    assert table["data"][1][3:] == [f"{HOSTILE} 1", 1, -0.5]


@needs_trackio
def test_trackio_has_every_step_once_and_its_pictures(resumed):
    # In a process of its own, because the package reads its folder when it is imported.
    program = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as s;"
        "[name] = s.get_runs('rrft_jax'); print(json.dumps(s.get_logs('rrft_jax', name)))"
    )
    folder = str(resumed / "trackio")
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRACKIO_DIR": folder},
        capture_output=True,
        check=True,
    )
    rows = json.loads(told.stdout)
    assert [row["grpo/step"] for row in rows if "grpo/loss" in row] == ALL
    assert [row["step"] for row in rows if "evaluation/id/accuracy" in row] == [0, 13]
    groups = [row for row in rows if "grpo/rollouts/table" in row]
    assert [row["step"] for row in groups] == SHOWN
    cells = groups[0]["grpo/rollouts/table"]["_value"][1]
    assert (cells["completion"], cells["rewards"]) == (f"{HOSTILE} 1", "accuracy 1")
    picture = cells["pictures"][0]["file_path"]
    assert (resumed / "trackio" / "media" / picture).is_file()


def test_without_a_login_wandb_asks_nothing_and_is_reported_once(tmp_path):
    ended = run(tmp_path / "run", "wandb,tensorboard", 0, 3, 0, WANDB_MODE="online")
    assert ended.returncode == 0
    warnings = [line for line in ended.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and warnings[0].startswith(
        "warning: tracker wandb: UserError: no login; run `wandb login`, or set WANDB_MODE=offline;"
    )
    assert [event.step for event in events(tmp_path / "run").Scalars("grpo/loss")] == [1, 2, 3]


def events(workdir: Path) -> EventAccumulator:
    """The event files of a run, as TensorBoard itself reads them."""
    sizes = {kind: 0 for kind in ("scalars", "images", "tensors")}  # all of each
    return EventAccumulator(str(workdir / "tensorboard"), size_guidance=sizes).Reload()


def wandb_rows(workdir: Path) -> list[dict]:
    """The rows of a run's local files of W&B, in the order in which `wandb sync` sends them."""
    from rrft_jax.monitoring.trackers import wandb

    files = sorted(workdir.glob("wandb/offline-run-*/*.wandb"))
    return [row for file in files for _, row in wandb.history(file)]
