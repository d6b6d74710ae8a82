"""A small study: it ends in its tables, goes on after a stop, and is the same when read again."""

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from rrft_jax import main
from rrft_jax.evaluation import predictions
from rrft_jax.monitoring import interrupts
from rrft_jax.study import __main__ as study
from rrft_jax.study import sharing

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT}/configs/study.py"
SMALL = (
    *("--samples=8,16", "--seeds=0", "--paradigms=reason_rft"),
    *("--config.mesh.data=1", "--config.sft.batch_size=2", "--config.sft.warmup_steps=0"),
    *("--config.data.activation_samples=2", "--config.rollouts_every=1"),
    # As in tests/test_recipe.py, whose programs serve here too.
    *("--config.grpo.batch_size=4", "--config.grpo.num_generations=4", "--config.eval.samples=16"),
    *("--config.eval.batch_size=16", "--config.eval.max_new_tokens=32"),
    "--config.sampling.max_new_tokens=32",
)


class Here:
    """A run in this process, which has compiled the programs already."""

    launched: list[list[str]] = []

    def __init__(self, arguments, log):
        assert log is None
        self.launched.append(list(arguments))
        self._code = main.main(arguments)

    def poll(self):
        return self._code


def folder_of(arguments) -> Path:
    [folder] = [a.partition("=")[2] for a in arguments if a.startswith("--workdir=")]
    return Path(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that was stopped once, in its second cell, and then went on."""
    out = tmp_path_factory.mktemp("study")
    Here.launched.clear()

    with pytest.MonkeyPatch.context() as patch:

        class Stopped(Here):
            def __init__(self, arguments, log):
                folder = folder_of(arguments)
                if folder.name == "reason_rft-16-0":
                    threading.Thread(target=stop, args=(folder,)).start()
                super().__init__(arguments, log)

            def send_signal(self, number):
                assert number == signal.SIGTERM

        def stop(folder):
            while not (folder / "config.json").exists():  # before that, a signal ends the process
                time.sleep(0.01)
            patch.setattr(interrupts, "_noted", signal.SIGTERM)

        assert study.main([CONFIG, f"--out={out}", *SMALL], launch=Stopped) == 0
        assert interrupts.requested()
    half = sorted(path.parent.name for path in out.glob("*/*/table.md"))
    assert half == ["reason_rft-8-0"]
    assert study.main([CONFIG, f"--out={out}", *SMALL], launch=Here) == 0
    return out


def test_a_stopped_study_goes_on_and_makes_no_cell_twice(finished):
    assert [folder_of(arguments).name for arguments in Here.launched] == [
        *("reason_rft-8-0", "reason_rft-16-0", "reason_rft-16-0")
    ]
    Here.launched.clear()
    before = (finished / "results.json").read_bytes()
    assert study.main([CONFIG, f"--out={finished}", *SMALL], launch=Here) == 0
    assert not Here.launched and (finished / "results.json").read_bytes() == before


def test_a_follower_takes_over_the_evaluations_and_the_first_stage(finished):
    """Both cells of reason_rft have the same two samples in SFT."""
    task = finished / "visual_counting"
    one, other = (task / f"reason_rft-{samples}-0" for samples in (8, 16))
    for row in ("start", "sft"):
        for split in ("id", "ood"):
            files = [f / "evaluations" / row / f"predictions-{split}.jsonl" for f in (one, other)]
            assert files[0].read_bytes() == files[1].read_bytes()
            for prediction in predictions.read(files[1]):
                assert all((other / name).is_file() for name in prediction.row["pictures"])
    stages = [json.loads(line)["stage"] for line in (other / "metrics.jsonl").open()]
    assert stages == ["grpo"] * 4  # 14 samples
    config = json.loads((other / "config.json").read_text())
    assert config["branch_from"] == f"{one}:sft@1"


def test_an_evaluation_counts_once_its_files_are_there(finished, tmp_path):
    giver = finished / "visual_counting" / "reason_rft-8-0"
    (tmp_path / "evaluations").write_text("")  # so that copying fails
    with pytest.raises(OSError):
        sharing.lend(giver, tmp_path, ["start"])
    assert not (tmp_path / "results.json").exists()


def test_the_tables_read_again_are_the_same(finished, capsys):
    names = ("results.json", "table.md", "study.html", "figures/accuracy-visual_counting.svg")
    before = [(finished / name).read_bytes() for name in names]
    for name in names:
        (finished / name).unlink()
    assert study.main([f"--out={finished}", "--report_only"]) == 0
    assert [(finished / name).read_bytes() for name in names] == before
    assert (finished / "table.md").read_text() in capsys.readouterr().out


def test_the_results_are_those_of_the_predictions(finished):
    results = json.loads((finished / "results.json").read_text())
    assert len(results["cells"]) == 2
    for name, cell in results["cells"].items():
        for split in ("id", "ood"):
            rows = [json.loads(x) for x in (finished / name / f"predictions-{split}.jsonl").open()]
            assert len(rows) == 16
            mean = sum(row["score"] for row in rows) / len(rows)
            assert cell["accuracy"][f"end, {split}"] == pytest.approx(mean)
        assert cell["cost"]["samples_seen"] >= int(name.split("-")[1])


def test_the_report_shows_every_cell(finished):
    table = (finished / "table.md").read_text()
    for row in ("reason_rft, before training", "reason_rft, after SFT"):
        assert row in table
    figures = {file.stem for file in (finished / "figures").glob("*.png")}
    assert figures == {"accuracy-visual_counting", "bars", "dynamics-visual_counting"}
    page = (finished / "study.html").read_text()
    assert "answers with a thought" in page and "reason_rft, after SFT" in page


def test_a_plan_estimates_the_rest_by_the_finished_cells(finished, capsys):
    argv = [CONFIG, f"--out={finished}", *SMALL, "--dry_run"]
    assert study.main([*argv, "--samples=8,16,32"]) == 0
    said = capsys.readouterr().out
    assert said.count(" finished |") == 2
    assert " h of steps are left, by the speed of the finished cells" in said
    assert "| visual_counting/reason_rft-32-0 | sft 1 + grpo 8 |" in said
    assert not (finished / "visual_counting" / "reason_rft-32-0").exists()


def test_other_settings_are_refused(finished, capsys):
    argv = [CONFIG, f"--out={finished}", *SMALL, "--config.sft.learning_rate=0.5"]
    assert study.main(argv, launch=Here) == 1
    assert "sft.learning_rate is 0.001 there and 0.5 here" in capsys.readouterr().err


def test_a_failed_cell_ends_the_study_with_its_name(tmp_path, capsys):
    class Failing:
        def __init__(self, arguments, log):
            del arguments, log

        def poll(self):
            return 3

    assert study.main([CONFIG, f"--out={tmp_path}", *SMALL], launch=Failing) == 1
    assert "visual_counting/reason_rft-8-0 stopped before its end, with exit code 3" in (
        capsys.readouterr().err
    )
