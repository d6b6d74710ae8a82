"""What is shown is what is trained: the target has the loss, the pictures are the model's."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from rrft_jax.assets import TINY
from rrft_jax.data import Example, Processor, Prompts, Source, show, target
from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.data.show.__main__ import main
from rrft_jax.tasks.drawings import counting
from tests.loading import loader_of

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(TINY)


def _batch(examples, processor, prompts=None, **options):
    defaults = {"batch_size": len(examples), "max_prompt_length": 2048, "max_target_length": 512}
    (batch,) = loader_of([Source(examples, prompts)], processor, **defaults | options)
    return batch


def _example(images, **fields):
    values = {
        "id": "a",
        "images": images,
        "problem": "How many <|image_pad|> in 数?\nCount.",
        "answer": "7",
        "cot": "One,\ntwo. é",
        "task": "visual_counting",
    }
    return Example(**values | fields)


def _picture(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize(size)


def test_the_tokens_with_loss_are_the_target(processor):
    examples = [counting.sample("train", 0, index, TINY_SIZE) for index in range(3)]
    batch = _batch(examples + [_example(())], processor)
    for b, example in enumerate(batch.examples):
        learned = [run for run in show.runs(batch, b, processor) if run.loss]
        tokens = np.concatenate([run.tokens for run in learned])
        assert processor.decode(tokens) == target(example, "cot_sft")
        assert learned[-1].text == "<|im_end|>" and {run.role for run in learned} == {"assistant"}


def test_runs_cover_the_row_in_order(processor):
    batch = _batch([_example((_picture((112, 56)), _picture((56, 84)))), _example(())], processor)
    for b in range(2):
        runs = show.runs(batch, b, processor)
        row = show.row_of(batch.prompt, b)
        n = len(row.tokens)
        joined = np.concatenate([run.tokens for run in runs])
        np.testing.assert_array_equal(joined[:n], batch.prompt.tokens[b][batch.prompt.mask[b]])
        assert [run.start for run in runs] == np.cumsum(
            [0, *(len(run.tokens) for run in runs[:-1])]
        ).tolist()
        positions = np.concatenate([run.positions for run in runs], axis=1)
        np.testing.assert_array_equal(positions[:, :n], row.positions)
        assert (positions[:, n] == batch.prompt.next_position[b]).all()
        assert all(run.loss == (run.start >= n) for run in runs)


def test_pictures_collapse_into_one_item_with_count_and_grid(processor):
    batch = _batch([_example((_picture((112, 56)), _picture((56, 84))))], processor)
    pictures = [
        run for run in show.runs(batch, 0, processor) if run.tokens[0] == processor.image_token
    ]
    assert [run.text for run in pictures] == [
        "<|image_pad|> x 8 (2 x 4)",
        "<|image_pad|> x 6 (3 x 2)",
    ]
    assert [len(run.tokens) for run in pictures] == [8, 6]
    patches = [np.sum(batch.prompt.patch_image[0] == number) for number in range(2)]
    assert patches == [4 * 8, 4 * 6]


def test_roles_and_spelt_out_control_tokens(processor):
    batch = _batch([_example(())], processor, prompts=Prompts(system="Be brief."), targets=False)
    runs = show.runs(batch, 0, processor)
    assert list(dict.fromkeys(run.role for run in runs)) == ["system", "user", "assistant"]
    assert not any(run.loss for run in runs)
    texts = [run.text.replace("|", "") for run in runs]
    assert "How many <image_pad> in 数?\\n" in texts  # a line of its own, the break visible
    assert [run.role for run in runs if run.text == "<|im_start|>"] == [
        "system",
        "user",
        "assistant",
    ]


def test_written_pictures_are_what_the_model_sees(processor, tmp_path):
    sizes = {(112, 56): (112, 56), (200, 90): (196, 84), (30, 40): (56, 84)}
    sources = [_picture(size, seed) for seed, size in enumerate(sizes)]
    batch = _batch([_example(tuple(sources), id="../a b")], processor)
    said = show.write_pictures(batch, 0, processor, tmp_path / "out")
    assert len(said) == 3
    for number, (source, size) in enumerate(zip(sources, sizes.values())):
        file = tmp_path / "out" / f".._a_b-{number}.png"
        assert said[number] == f"{file}: {size[0]} x {size[1]} pixels"
        seen = np.asarray(Image.open(file), int)
        wanted = np.asarray(source.resize(size, Image.Resampling.BICUBIC), int)
        assert np.abs(seen - wanted).max() <= 1


def _show(tmp_path, *arguments, config="sft"):
    return main([f"--config={CONFIGS / config}.py", f"--out={tmp_path}", *arguments])


def test_the_command_shows_the_stage_s_first_samples(tmp_path, capsys):
    assert _show(tmp_path, "-n", "2", "--config.data.thought_dropout=0") == 0
    out = capsys.readouterr().out
    assert out.count("sample counting-train-0-") == 2 and out.count(" * assistant") > 8
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert f"<|image_pad|> x {(TINY_SIZE // 28) ** 2} " in out

    assert _show(tmp_path, "-n1", "--stage=grpo", config="grpo") == 0
    out = capsys.readouterr().out
    assert "the completion is sampled" in out and " * " not in out


def test_samples_that_cannot_be_used_are_a_line(tmp_path, capsys):
    rows = [
        {"image": "none.png", "problem": "How many?", "answer": "1", "cot": "x"},
        {"image": [], "problem": "How many?", "answer": "1", "cot": "x"},
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    assert _show(tmp_path, "-n2", f"--config.data.path={file}") == 0
    lines = capsys.readouterr().out.splitlines()
    (skipped,) = [line for line in lines if line.startswith("skipped")]
    assert "(picture)" in skipped and "none.png" in skipped and "no such picture" in skipped
    assert sum(line.startswith("sample rows-1: ") for line in lines) == 1


ROWS = [
    {"id": "a", "image": "a.png", "problem": "How many?", "answer": "1", "boxes": [[1, 2.5]]},
    {"id": "b", "image": "a.png", "problem": "How many?", "answer": "two\n\x1b[2J", "level": 2},
]
REWARD = """
def first_box(completions, example):
    return [example.extra["boxes"][0][1] for _ in completions]
"""


@pytest.fixture
def own(tmp_path):
    """A data set with columns that we do not use; its rows have no thoughts."""
    _picture((112, 56)).save(tmp_path / "a.png")
    (tmp_path / "Visual-Counting-train.json").write_text(json.dumps(ROWS))
    (tmp_path / "Visual-Counting-id-test-1k.json").write_text(json.dumps([ROWS[0] | {"id": "c"}]))
    return tmp_path


def test_the_answer_its_rewards_and_the_other_columns_are_shown(own, monkeypatch, capsys):
    (own / "show_rewards.py").write_text(REWARD)
    monkeypatch.syspath_prepend(own)
    monkeypatch.chdir(own)
    arguments = [f"--config.data.path={own}", "--config.grpo.rewards.show_rewards.first_box=1"]
    config = "grpo"
    assert _show(own / "out", "-n9", "--stage=grpo", *arguments, config=config) == 0
    out = capsys.readouterr().out
    # Every sample once, though the stage repeats them.
    blocks = {block.partition(":")[0]: block for block in out.split("sample ")[1:]}
    assert sorted(blocks) == ["a", "b"] and out.count("sample ") == 2
    first, second = blocks["a"], blocks["b"]
    assert "    answer: 1\n" in first and "    column boxes: [[1, 2.5]]\n" in first
    assert "    rewards of its answer: accuracy 1, format 1, show_rewards.first_box 2.5\n" in first
    assert r"    answer: two\n\x1b[2J" in second and "    part: level 2\n" in second
    assert _show(own / "out", "--id=a", "--stage=sft", *arguments, config=config) == 0
    taught = capsys.readouterr().out
    assert "    rewards of its answer: accuracy 1, format 0, show" in taught  # an empty thought
    assert "show_rewards.first_box 0 (failed: " in second and "KeyError" in second


def test_a_row_without_an_answer_is_scored_with_an_empty_completion(own, monkeypatch, capsys):
    (own / "boxes").mkdir()
    row = {"id": "a", "image": [], "problem": "Where?", "boxes": [[1, 2.5]]}
    (own / "boxes/test.json").write_text(json.dumps([row]))
    (own / "show_rewards.py").write_text(REWARD)
    monkeypatch.syspath_prepend(own)
    monkeypatch.chdir(own)
    arguments = ["--config.data.path=boxes", "--config.eval.rewards.show_rewards.first_box=1"]
    assert main([f"--config={CONFIGS}/eval.py:task=custom", f"--out={own}/out", *arguments]) == 0
    out = capsys.readouterr().out
    assert "    answer: none\n" in out
    assert "    rewards of an empty completion: show_rewards.first_box 2.5\n" in out


def test_one_sample_or_a_held_out_split_is_shown(own, capsys):
    path = f"--config.data.path={own}"
    assert _show(own / "out", "--id=b", path) == 0
    out = capsys.readouterr().out
    assert out.count("sample ") == 1 and out.startswith("sample b: ")
    for arguments, config in ((["--split=id"], "sft"), ([], "eval")):
        assert _show(own / "out", *arguments, path, config=config) == 0
        out = capsys.readouterr().out
        assert out.startswith("sample c: ") and "the completion is sampled" in out


def test_a_sheet_has_all_pictures(own, capsys):
    pictures = [{"id": "b", "image": ["a.png", "a.png"], "problem": "x?", "answer": "1"}]
    text = [{"id": "d", "image": [], "problem": "y?", "answer": "1"}]
    (own / "Visual-Counting-train.json").write_text(json.dumps([ROWS[0], *pictures, *text]))
    file = own / "sheets/all.png"
    assert _show(own / "out", "-n9", f"--sheet={file}", f"--config.data.path={own}") == 0
    out = capsys.readouterr().out
    assert not (own / "out").exists() and f"{file}: 3 pictures, 808 x " in out
    assert "sample a: How many?\n    answer: 1\n" in out and "tokens  positions" not in out
    with Image.open(file) as sheet:
        pixels = np.asarray(sheet.convert("RGB"), int)
    cells = [pixels[100:200, 8 + 200 * column : 200 + 200 * column] for column in range(4)]
    assert sum(cell.std() > 20 for cell in cells) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-n", "0"], "-n 0: expected 1 or more"),
        (["--split=odd"], "--split=odd: expected one of id, ood"),
        (["--split=id", "--stage=sft"], "--stage=sft and --split=id: expected one of them"),
        (["--split=id", "--id=x"], "--id=x: no sample has it"),
        (["--sheet=x.txt"], "--sheet=x.txt: expected a name such as sheet.png"),
        (["-n", "x"], "argument -n: invalid int"),
        (["--stage=grpo"], "--stage=grpo: expected one of sft"),
        (["--config.data.prompts=none.yaml"], "data.prompts=none.yaml: "),
        (["--config.data.variant=caption"], "only spatial_transformation"),
        (["--config.sed=1"], "did you mean seed?"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path, capsys):
    assert _show(tmp_path, *arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_pictures_are_shown_where_they_stand(processor):
    pictures = (_picture((56, 56)), _picture((112, 56)))
    example = _example(
        pictures, problem="Is  red, or ?", image_offsets=(3, 12), system="In French."
    )
    batch = _batch([example], processor)
    runs = [run for run in show.runs(batch, 0, processor) if not run.loss]
    texts = "".join(run.text.replace("|", "") if "<" not in run.text else "#" for run in runs)
    assert "In French." in texts and "Is ### red, or ###?" in texts
    said = [run.text for run in runs if run.tokens[0] == processor.image_token]
    assert said == ["<|image_pad|> x 4 (2 x 2)", "<|image_pad|> x 8 (2 x 4)"]
