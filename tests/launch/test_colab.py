"""The notebook runs from top to bottom, shows what it promises, and is kept without outputs."""

import ast
import base64
import html
import io
import json
import os
import re
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from rrft_jax.data import drawn
from tests.short import QUICK

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "launch/colab/grpo_tpu.ipynb"
SHOWN = 2
PARAMETERS = f"""
SEED = 0
SFT_STEPS = 4
GRPO_STEPS = 2
EVAL_SAMPLES = 8
WORKDIR = "run"
OPTIONS = [
    "--config.sft.batch_size=8",
    "--config.grpo.batch_size=2",
    "--config.grpo.num_generations=4",
    "--config.eval.batch_size=8",
]
SHOWN = {SHOWN}
SECONDS = 1
"""
FIRST_COLOUR = (31, 119, 180)  # of matplotlib's curves


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    return cell


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """In a kernel of its own, on one CPU device, with this checkout's package."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICK,
    }
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment | {"IPYTHONDIR": str(folder / "ipython")})


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a short run, and the folder of that run."""
    folder = tmp_path_factory.mktemp("colab")
    notebook = read()
    parameters(notebook).source = PARAMETERS
    execute(notebook, folder)
    return notebook, folder / "run"


def outputs(notebook: nbformat.NotebookNode, name: str) -> list[nbformat.NotebookNode]:
    (cell,) = [c for c in notebook.cells if c.id == name]
    return cell.outputs


def data(notebook: nbformat.NotebookNode, name: str, kind: str) -> list[str]:
    return [o.data[kind] for o in outputs(notebook, name) if kind in o.get("data", {})]


def picture(notebook: nbformat.NotebookNode, name: str) -> np.ndarray:
    """The pixels of the one picture below a cell, [height,width,3]."""
    (png,) = data(notebook, name, "image/png")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def said(notebook: nbformat.NotebookNode, name: str) -> str:
    return "".join(o.text for o in outputs(notebook, name) if o.get("name") == "stdout")


def has(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((pixels == colour).all(axis=-1).any())


@pytest.mark.slow
def test_drawn_pictures_and_samples_are_shown(executed):
    notebook, _ = executed
    for name in ("data", "samples"):  # shaded scenes have colours that text and frames lack
        assert len(np.unique(picture(notebook, name).reshape(-1, 3), axis=0)) > 2000


@pytest.mark.slow
@pytest.mark.parametrize("stage, steps", [("sft", 4), ("grpo", 2)])
def test_curves_of_a_stage_are_one_figure_drawn_again(executed, stage, steps):
    notebook, run = executed
    assert has(picture(notebook, stage), FIRST_COLOUR)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["stage"] == stage] == list(range(1, steps + 1))


@pytest.mark.slow
def test_the_table_has_a_row_for_each_stage(executed):
    notebook, _ = executed
    (table,) = data(notebook, "table", "text/markdown")
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == "accuracy, %" and rows[2:] == ["start", "sft", "grpo"]


@pytest.mark.slow
def test_the_report_of_the_run_is_shown(executed):
    notebook, run = executed
    (frame,) = data(notebook, "report", "text/html")
    page = (run / "report.html").read_text()
    assert "What its own answers earn" in page and html.escape(page) in frame


@pytest.mark.slow
def test_the_exported_model_answers_as_the_run_s_did(executed):
    notebook, run = executed
    assert picture(notebook, "reload").std() > 0
    example = drawn.DrawnSource("visual_counting", "id", 0, 0, 1, drawn.TINY_SIZE)[0]
    rows = map(json.loads, (run / "predictions-id.jsonl").read_text().splitlines())
    (row,) = [row for row in rows if row["id"] == example.id]
    assert row["completion"].strip()
    question, answer = said(notebook, "reload").split("\nexpected: ")[0].split("\n", 1)
    assert (question, answer) == (example.problem, row["completion"])
    assert "model.safetensors" in said(notebook, "reload")


@pytest.mark.slow
def test_without_package_and_address_it_ends_in_one_line(tmp_path):
    notebook = read()
    hide = "import importlib.util\nimportlib.util.find_spec = lambda name: None"
    (install,) = [cell for cell in notebook.cells if cell.id == "install"]
    notebook.cells = [nbformat.v4.new_code_cell(hide), install]
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        execute(notebook, tmp_path)
    (error,) = outputs(notebook, "install")
    assert len(error.traceback) == 1 and "\n" not in error.traceback[0]
    assert error.traceback[0].startswith("error: REPOSITORY is empty")


def test_it_is_committed_without_outputs_or_traces_of_a_machine():
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.accelerator == "TPU" and "colab" in notebook.metadata
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users|mnt)/|https?://(?!arxiv\.org)", text)


def test_the_parameters_here_are_those_of_the_notebook():
    names = [
        [node.targets[0].id for node in ast.parse(source).body]
        for source in (PARAMETERS, parameters(read()).source)
    ]
    assert names[0] == names[1]
