"""A model is asked from Python: in the run's words, whatever the form and size of the pictures."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rrft_jax
from rrft_jax import fields, main
from rrft_jax.asking import Reply
from rrft_jax.assets import TINY
from rrft_jax.data import messages
from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.data.pictures import MAX_OPEN_PIXELS
from rrft_jax.data.questions import read_question
from rrft_jax.errors import UserError
from rrft_jax.monitoring import compilations
from rrft_jax.settings import Config, DataSettings, SFTSettings
from rrft_jax.tasks.drawings import counting

SAMPLES = 3
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "eval.py"
EXAMPLES = [counting.sample("id", 0, i, TINY_SIZE) for i in range(SAMPLES)]
PAIRS = [(example.images[0], example.problem) for example in EXAMPLES]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of an evaluation of the packaged model, greedy, on one device."""
    folder = tmp_path_factory.mktemp("run")
    arguments = [
        "--config.mesh.data=1",
        f"--config.eval.samples={SAMPLES}",
        "--config.eval.max_new_tokens=32",
        "--config.eval.sampled=False",
        "--config.data.max_pixels=200000",
    ]
    assert main.main([f"--config={CONFIG}", *arguments, f"--workdir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def predicted(run):
    rows = [json.loads(row) for row in (run / "predictions-id.jsonl").read_text().splitlines()]
    return [row["completion"] for row in rows]


@pytest.fixture(scope="module")
def asker(run):
    return rrft_jax.load(run)


def file_of(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels)


def test_replies_are_the_predictions_of_the_run(asker, predicted):
    assert len(set(predicted)) > 1
    assert [asker.ask(*pair) for pair in PAIRS] == predicted
    assert asker.ask_all(PAIRS) == predicted
    assert asker.ask_all(iter(EXAMPLES)) == predicted
    records = [{"image": picture, "problem": question} for picture, question in PAIRS]
    assert asker.ask_all(records) == predicted
    assert asker.ask_all([]) == []


def test_pictures_of_any_size_share_a_program(asker, tmp_path):
    compilations.listen()
    pictures = [noise(w, h) for w, h in ((30, 300), (112, 112), (200, 150), (320, 240), (640, 480))]
    asker.ask(pictures[0], "Which?")
    before = compilations.total()
    replies = [asker.ask(picture, "Which?") for picture in pictures]
    assert asker.ask([pictures[1]] * 3, "Which of three?")
    assert compilations.total() == before
    together = asker.ask_all([(picture, "Which?") for picture in pictures[2:]])
    assert together == replies[2:]
    before = compilations.total()
    assert asker.ask_all([(picture, "Which one?") for picture in reversed(pictures[2:])])
    assert compilations.total() == before


def test_the_number_of_pictures_is_free(asker):
    assert asker.ask(None, "How many?") == asker.ask([], "How many?")
    first, second = PAIRS[0][0], PAIRS[1][0]
    placed = asker.ask([first, second], "In <image> and <image>, how many?")
    assert placed.finished in (True, False)
    huge = noise(3000, 2000)
    assert asker.ask(huge, "How many?") == asker.ask(file_of(huge), "How many?")


def test_threads_take_turns(asker, predicted):
    replies = {}

    def ask(number):
        replies[number] = asker.ask(*PAIRS[number % SAMPLES])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [replies[number] for number in range(6)] == predicted * 2


def test_an_interrupted_question_leaves_the_model_usable(asker, predicted):
    def interrupt():
        end = time.monotonic() + 60
        while not asker._turn.locked() and time.monotonic() < end:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    # A run in this process listens to signals itself; a user's own program does not.
    handler, descriptor = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            asker.ask_all(PAIRS * 20)
            time.sleep(60)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    assert asker.ask(*PAIRS[0]) == predicted[0]


def test_draws_follow_the_seed(asker, predicted):
    hot = {"temperature": 1.5, "max_new_tokens": 20}
    again, once = (asker.ask(*PAIRS[0], **hot, seed=7) for _ in range(2))
    assert again == once
    assert len(set(asker.ask_all(PAIRS[:1] * 3, **hot))) > 1
    assert predicted[0].startswith(asker.ask(*PAIRS[0], **hot, top_k=1))
    cut = asker.ask(*PAIRS[0], max_new_tokens=np.int64(3))
    assert predicted[0].startswith(cut) and not cut.finished


@pytest.mark.parametrize(
    "pictures, question, message",
    [
        ("nowhere.png", "Which?", "nowhere.png: no such picture file"),
        (b"no picture", "Which?", "a picture in memory: cannot identify"),
        (file_of(noise(90, 90))[:3000], "Which?", "a picture in memory: .*truncated"),
        (np.zeros((9, 9, 3)), "Which?", r"an array of float64 \[9, 9, 3\]; expected uint8"),
        (noise(5, 2000), "Which?", "a picture in memory: "),
        (Image.new("1", (MAX_OPEN_PIXELS // 1000, 1001)), "Which?", "pixels are more than"),
        (None, " ", "the question is ' '; expected a text"),
        (noise(9, 9), "Which <image> or <image>?", "2 <image> in the question for 1 pictures"),
        (None, "Which \ud800?", "not Unicode"),
        ([noise(600, 600)] * 20, "Which?", "more than 4096; give fewer pictures, or load"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_compiled(asker, pictures, question, message):
    compilations.listen()
    before = compilations.total()
    with pytest.raises(UserError, match=message) as error:
        asker.ask(pictures, question)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=f"^row 1: .*{message}") as error:
        asker.ask_all([PAIRS[0], (pictures, question)])
    assert compilations.total() == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": -1}, "temperature=-1: expected a number, 0 or more"),
        ({"top_p": 0}, "top_p=0: expected a number, more than 0, at most 1"),
        ({"top_k": 1.5}, "top_k=1.5: expected an integer, 0 or more"),
        ({"max_new_tokens": True}, "max_new_tokens=True: expected an integer, 1 or more"),
        ({"tokens": 3}, "unknown option tokens: expected one of temperature, top_k"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(asker, options, message):
    with pytest.raises(UserError, match=message):
        asker.ask(None, "Which?", **options)


def test_broken_weights_are_named(asker):
    params = asker.params["language"] | {
        "norm": {"scale": asker.params["language"]["norm"]["scale"] * np.nan}
    }
    broken = type(asker)(**{**vars(asker), "params": {**asker.params, "language": params}})
    with pytest.raises(UserError, match="not a finite number, so the weights are broken"):
        broken.ask(*PAIRS[0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with words of its own, and the packaged model as its exports."""
    folder = tmp_path_factory.mktemp("trained")
    data = DataSettings(variant="brief", max_pixels=20_000, max_prompt_length=300)
    config = Config(task="spatial_transformation", stages=("sft",), data=data, sft=SFTSettings())
    (folder / "config.json").write_text(json.dumps(fields.plain(config) | {"weights": "abc"}))
    shutil.copytree(TINY, folder / "export")
    shutil.copytree(TINY, folder / "export-best")
    return folder


def asked(asker) -> str:
    """The text of a chat that asks "Which?"."""
    example = read_question((None, "Which?"), asker.task, {})
    (turn,) = messages(example, asker.form.paradigm, asker.words)
    return turn["content"][-1]["text"]


def test_a_folder_of_a_run_brings_its_words(trained, tmp_path, monkeypatch):
    of_run, best = rrft_jax.load(trained), rrft_jax.load(str(trained / "export-best") + "/")
    assert "Think inside <think> </think>" in asked(of_run) and "sequence of calls" in asked(of_run)
    assert asked(best) == asked(of_run)
    assert best.model.source == str(trained / "export-best")
    assert of_run.model.dtype == "bfloat16"  # as the run computed
    tokens, _ = of_run.processor.measure(*_chat(of_run, noise(900, 900)))
    assert tokens < 100
    assert asked(rrft_jax.load(trained, instruction="")) == "Which?"
    assert asked(rrft_jax.load(trained, instruction="Briefly.")) == "Which?\nBriefly."


def _chat(asker, picture):
    example = read_question((picture, "Which?"), asker.task, {})
    return messages(example, asker.form.paradigm, asker.words), example.images


def test_a_folder_of_no_run_asks_the_bare_question(tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(TINY, tmp_path / "m"))
    bare = rrft_jax.load(".")
    assert asked(bare) == "Which?" and bare.model.dtype == "bfloat16"  # as the files
    told = rrft_jax.load(".", instruction="Q: {problem} A:", max_pixels=3136, dtype="float32")
    assert asked(told) == "Q: Which? A:" and told.model.dtype == "float32"
    assert told.processor.measure(*_chat(told, noise(900, 900)))[1] == 16


@pytest.mark.parametrize(
    "path, message",
    [
        ("nowhere", "nowhere: no such folder; .*hf download Qwen/Qwen2-VL-2B-Instruct"),
        ("Qwen/Qwen2-VL-2B-Instruct", "download it first .hf download Qwen/Qwen2-VL-2B-Instruct"),
        (".", "config.json: no such file; expected the folder of a"),
        ("run/checkpoints/sft/4", "rrft_jax.export .*run --stage=sft --step=4, and give that"),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(path, message, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run", ignore=shutil.ignore_patterns("export*"))
    (tmp_path / "run/checkpoints/sft/4").mkdir(parents=True)
    (tmp_path / "run/checkpoints/sft/4/_CHECKPOINT_METADATA").write_text("{}")
    with pytest.raises(UserError, match=message):
        rrft_jax.load(path)


def test_the_parts_of_a_reply():
    reply = Reply("<think>\n1 + 1\n</think>\n<answer>\n2\n</answer>")
    assert (reply.thought, reply.answer, reply.finished) == ("1 + 1", "2", True)
    assert (Reply(" 2 ").thought, Reply(" 2 ").answer) == ("", "2")


def test_importing_the_package_brings_no_jax():
    code = "import sys, rrft_jax; assert 'jax' not in sys.modules; rrft_jax.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "module 'rrft_jax' has no attribute 'nothing'" in done.stderr
