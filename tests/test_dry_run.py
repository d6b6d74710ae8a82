"""A dry run tells what a run would do, finds its mistakes, compiles nothing and writes nothing."""

import json
import shutil
from pathlib import Path

import jax
import pytest

from rrft_jax import command, main, prepare, workdir
from rrft_jax.assets import TINY
from rrft_jax.errors import UserError
from rrft_jax.hf import adapters
from rrft_jax.hf.pretrained import read_config
from rrft_jax.models import adapter as low_rank
from rrft_jax.models import table
from rrft_jax.monitoring import compilations
from rrft_jax.parallel import devices

ROOT = Path(__file__).resolve().parents[1]
GRPO = f"--config={ROOT}/configs/grpo.py"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def dry(*arguments: str) -> int:
    return main.main([GRPO, "--dry_run", "--config.mesh.data=1", *arguments])


def test_it_tells_the_run_without_a_folder_or_a_compilation(tmp_path, capsys):
    compilations.listen()
    before = [compilations.total(program) for program in compilations.WORDS]
    assert dry("--config.data.activation_samples=20", "--config.eval.samples=7") == 0
    assert [compilations.total(program) for program in compilations.WORDS] == before
    assert not list(tmp_path.iterdir())
    out, said = capsys.readouterr()
    assert said.count("data: the samples are drawn;") == 1
    lines = out.splitlines()
    assert "sft: 400 steps of 16 prompts, 320 epochs of 20 samples" in lines
    assert "grpo: 40 steps of 16 prompts, 0.0064 epochs of 100,000 samples" in lines
    shapes = [line for line in lines if " patches, " in line and "are padding" in line]
    assert [line.partition(":")[0] for line in shapes] == ["sft", "grpo"]
    assert out.count("GiB on each device, in its ") == 2 and "(parameters 0.0056" in out
    assert out.count("the first prompt as the model sees it\nsample counting-train-0-") == 2
    assert out.count("    rewards of its answer: accuracy 1, format 1\n") == 2
    assert "<|vision_start|>" in out and " * assistant" in out
    assert "eval: id, 7 samples" in lines and lines[-1].endswith(
        "visual_counting-reason_rft is free"
    )


def test_an_evaluation_is_told_too(capsys):
    config = f"--config={ROOT}/configs/eval.py"
    assert main.main([config, "--dry_run", "--config.eval.samples=3", "--workdir=run"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:-1] == [
        "eval: id, 3 samples",
        "eval: ood, 3 samples",
    ]


def test_samples_that_cannot_be_used_are_counted(capsys):
    rows = [{"image": [], "problem": "How many?", "answer": "1", "cot": "One."}] * 3
    rows[1:1] = [{"image": "none.png", "problem": "How many?", "answer": "1", "cot": "x"}]
    Path("rows.json").write_text(json.dumps(rows))
    assert dry("--config.data.path=rows.json") == 0
    out = capsys.readouterr().out
    assert "samples can't be used (picture: " in out and "no such picture" in out


def _broken_weights() -> list[str]:
    shutil.copytree(TINY, "model")
    weights = Path("model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    return ["--config.model.path=model"]


def _adapter(folder: str, scale: float = 2.0) -> list[str]:
    """The PEFT folder of an adapter of the packaged model."""
    sizes, _ = read_config(TINY)
    lora = low_rank.LoRA(2, scale, low_rank.targets(sizes, ".*/q"))
    arrays = table.flatten(low_rank.init(jax.random.key(0), sizes, lora))
    adapters.write(Path(folder), sizes, lora, arrays, TINY)
    return [f"--config.model.adapter={folder}"]


def _adapter_of_another_rank() -> list[str]:
    arguments = _adapter("adapter")
    settings = Path("adapter/adapter_config.json")
    settings.write_text(settings.read_text().replace('"r": 2', '"r": 3'))
    return arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        (lambda: ["--config.data.path=none"], "none"),
        (lambda: ["--config.model.adapter=none"], "none/adapter_config.json: no such file"),
        (_adapter_of_another_rank, "and r=3 in adapter_config.json need (3, "),
        (
            lambda: ["--config.grpo.batch_size=7", "--config.mesh.data=2"],
            "expected a multiple of 2",
        ),
        (lambda: ["--config.sft.freeze=.*"], "freeze"),
        (_broken_weights, "model.safetensors"),
    ],
)
def test_it_finds_the_mistakes_of_a_run(arguments, message, tmp_path, capsys):
    assert dry(*arguments(), "--workdir=run") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not Path("run").exists()


def test_a_folder_is_judged_but_not_touched(capsys):
    fields = ["--config.eval.samples=2", "--workdir=run"]
    config, folder = command.parse([GRPO, "--config.mesh.data=1", *fields])
    workdir.claim(config, folder, prepare.weights_of(config.model))
    (folder / "checkpoints/sft/4").mkdir(parents=True)
    before = (folder / "config.json").read_bytes()
    assert dry(*fields) == 0
    out = capsys.readouterr().out
    assert out.endswith("run holds this run, which resumes: sft after step 4\n")
    assert dry(*fields, "--config.checkpoint_every=7") == 0
    assert "run resumes with checkpoint_every" in capsys.readouterr().err
    assert dry(*fields, "--config.sft.learning_rate=1") == 1
    assert "sft.learning_rate" in capsys.readouterr().err.splitlines()[-1]
    assert (folder / "config.json").read_bytes() == before


def test_a_run_belongs_to_its_adapter(capsys):
    fields = ["--config.eval.samples=2", "--workdir=run", *_adapter("adapter")]
    config, folder = command.parse([GRPO, "--config.mesh.data=1", *fields])
    workdir.claim(config, folder, prepare.weights_of(config.model))
    assert dry(*fields) == 0
    assert "adapter: rank 2, in 1 linear maps; merged" in capsys.readouterr().err
    _adapter("adapter", scale=3.0)
    assert dry(*fields) == 1
    assert "run holds a run of other weights" in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_cannot_fit_its_devices_is_refused(monkeypatch, capsys):
    small = devices.Limits(1e12, 1e11, 1e10, 2.0**24)
    monkeypatch.setattr(devices, "limits", lambda device: small)
    assert dry() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: grpo: at least 0.0") and ", of 0.0156, in its sampling" in error


def test_only_a_run_has_it():
    with pytest.raises(UserError, match="--dry_run: only a run takes it"):
        command.parse([GRPO, "--dry_run"])
