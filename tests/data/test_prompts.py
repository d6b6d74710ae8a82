"""What is asked depends on task and paradigm, and gives nothing of the answer away but its kind."""

import dataclasses
import itertools

import pytest

from rrft_jax.data import PARADIGMS, BadSample, Example, Prompts, messages, read_prompts, target
from rrft_jax.data.prompts import ZERO_SHOT
from rrft_jax.errors import UserError
from rrft_jax.tasks import TASKS, custom

EXAMPLE = Example("a", ("one.png", "two.png"), "How many?", "7319", "One, two.", "visual_counting")


def _text(example, paradigm, **kwargs):
    return messages(example, paradigm, **kwargs)[-1]["content"][-1]["text"]


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_alone_is_asked_for_by_the_question_alone(task):
    example = dataclasses.replace(EXAMPLE, task=task)
    assert _text(example, "ans_sft") == "How many?"
    assert target(example, "ans_sft") == "7319"


@pytest.mark.parametrize("task, paradigm", list(itertools.product(TASKS, PARADIGMS[1:])))
def test_reasoning_is_asked_for_with_both_tags(task, paradigm):
    text = _text(dataclasses.replace(EXAMPLE, task=task), paradigm)
    assert text.startswith("How many?\n")
    assert "<think> </think>" in text and "<answer> </answer>" in text
    assert "7319" not in text


@pytest.mark.parametrize(
    "task, answer, kind",
    [
        ("visual_counting", "7319", "a number"),
        ("structure_perception", "7319", "an integer or a decimal number"),
        ("structure_perception", "B", "the letter of an option"),
        ("spatial_transformation", "7319", "sequence of calls"),
    ],
)
def test_zero_shot_asks_for_the_bare_answer_and_names_its_kind(task, answer, kind):
    example = dataclasses.replace(EXAMPLE, task=task, answer=answer)
    text = _text(example, ZERO_SHOT)
    assert text.startswith("How many?\n") and kind in text and "alone" in text
    assert "<think>" not in text and "<answer>" not in text and "7319" not in text
    assert len(text.splitlines()[-1].split()) <= 20


def test_the_zero_shot_transformation_keeps_its_rules_unless_it_is_brief():
    example = dataclasses.replace(EXAMPLE, task="spatial_transformation")
    rules = _text(example, "reason_rft").splitlines()[:-2]
    assert _text(example, ZERO_SHOT).splitlines()[:-1] == rules
    brief = _text(example, ZERO_SHOT, prompts=Prompts(variant="brief"))
    assert len(brief.splitlines()) == 2 and "sequence of calls" in brief


def test_zero_shot_words_are_replaced_by_keys_of_their_own(tmp_path):
    (tmp_path / "own.yaml").write_text("visual_counting.zero_shot: Number?\n")
    prompts = read_prompts("visual_counting", ZERO_SHOT, file=str(tmp_path / "own.yaml"))
    assert _text(EXAMPLE, ZERO_SHOT, prompts=prompts) == "How many?\nNumber?"
    assert _text(EXAMPLE, "cot_sft", prompts=prompts) == _text(EXAMPLE, "cot_sft")


def test_every_picture_has_its_placeholder_before_the_text():
    (turn,) = messages(EXAMPLE, "cot_sft")
    assert turn["role"] == "user"
    assert [part["type"] for part in turn["content"]] == ["image", "image", "text"]


def test_the_counting_instruction_is_short():
    assert len(_text(EXAMPLE, "reason_rft").removeprefix("How many?\n").split()) <= 30


def test_options_are_answered_by_a_letter_and_all_letters_are_asked_alike():
    geometry = dataclasses.replace(EXAMPLE, task="structure_perception")
    texts = {_text(dataclasses.replace(geometry, answer=x), "reason_rft") for x in "ABCD"}
    assert len(texts) == 1 and "letter" in texts.pop()
    assert "letter" not in _text(geometry, "reason_rft")


def test_the_transformation_rules_name_every_call():
    text = _text(dataclasses.replace(EXAMPLE, task="spatial_transformation"), "reason_rft")
    for name in ("size", "color", "material", "shape", "position"):
        assert f"change_{name}(object_id, value)" in text
    for value in ("medium", "purple", "rubber", "cylinder", "behind_right"):
        assert f"'{value}'" in text


def test_a_system_prompt_replaces_the_instruction():
    system, user = messages(EXAMPLE, "reason_rft", Prompts(system="Count well."))
    assert system == {"role": "system", "content": [{"type": "text", "text": "Count well."}]}
    assert user["content"][-1]["text"] == "How many?"


def test_the_brief_variant_leaves_the_rules_out_and_is_in_nobodys_way():
    example, task = (
        dataclasses.replace(EXAMPLE, task="spatial_transformation"),
        "spatial_transformation",
    )
    brief = _text(example, "reason_rft", prompts=read_prompts(task, "reason_rft", variant="brief"))
    assert len(brief) < 0.2 * len(_text(example, "reason_rft")) and "change_size" not in brief
    assert "<think> </think>" in brief and "<answer> </answer>" in brief
    assert read_prompts(task, "ans_sft", variant="brief")
    assert read_prompts(task, "reason_rft", variant="brief", system="Be brief.").system


def test_the_caption_variant_asks_for_four_parts_in_order():
    example = dataclasses.replace(EXAMPLE, task="spatial_transformation")
    prompts = read_prompts("spatial_transformation", "reason_rft_zero", variant="caption")
    text = _text(example, "reason_rft_zero", prompts=prompts)
    tags = [f"<{part}> </{part}>" for part in ("summary", "caption", "think", "answer")]
    assert sorted(tags, key=text.index) == tags
    assert text.splitlines()[:-2] == _text(example, "reason_rft_zero").splitlines()[:-2]


@pytest.mark.parametrize(
    "name, content",
    [
        ("own.json", '{\n\t"visual_counting": "Count.",\n\t"structure_perception.value": "V"}'),
        ("own.yaml", "visual_counting: Count.\nstructure_perception.value: V\n"),
    ],
)
def test_a_file_replaces_the_texts_that_it_names(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    prompts = read_prompts("visual_counting", "cot_sft", file=str(tmp_path / name))
    geometry = dataclasses.replace(EXAMPLE, task="structure_perception")
    letter = dataclasses.replace(geometry, answer="B")
    assert _text(EXAMPLE, "cot_sft", prompts=prompts) == "How many?\nCount."
    assert _text(geometry, "cot_sft", prompts=prompts) == "How many?\nV"
    assert _text(letter, "cot_sft", prompts=prompts) == _text(letter, "cot_sft")


def test_a_text_may_say_where_the_question_goes():
    prompts = Prompts(replaced={"visual_counting": "Q: {problem} {A}"})
    example = dataclasses.replace(EXAMPLE, problem="Is {problem} {0} a set?")
    assert _text(example, "cot_sft", prompts=prompts) == "Q: Is {problem} {0} a set? {A}"


@pytest.mark.parametrize(
    "content, message",
    [
        ("counting: x", "key 'counting': expected one of visual_counting, visual_counting.letter"),
        ("structure_perception: x", "key 'structure_perception': expected one of"),
        ("1: x", "key 1: expected one of"),
        ("visual_counting: 3", "visual_counting: expected a text, found int"),
        ("visual_counting:", "visual_counting: expected a text, found nothing"),
        ("visual_counting: [a]", "visual_counting: expected a text, found list"),
        ("- a", "expected a mapping of keys to texts, found list"),
        ("", "expected a mapping of keys to texts, found nothing"),
        ("{", "expected a JSON or YAML file of texts: while parsing"),
        (b"\xff\xfe\xfd", "expected a JSON or YAML file of texts: 'utf-8' codec"),
        (None, "expected a JSON or YAML file of texts: [Errno 2]"),
    ],
)
def test_broken_files_are_named_in_one_line(tmp_path, content, message):
    file = tmp_path / "own.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_prompts("visual_counting", "cot_sft", file=str(file))
    assert f"data.prompts={file}: " in str(error.value) and "\n" not in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "task, paradigm, fields, message",
    [
        ("visual_counting", "cot_sft", {"variant": "caption"}, "only spatial_transformation"),
        (
            "spatial_transformation",
            "cot_sft",
            {"variant": "x"},
            "expected caption, brief, or nothing",
        ),
        ("spatial_transformation", "ans_sft", {"variant": "caption"}, "as ans_sft asks"),
        ("visual_counting", "ans_sft", {"file": "f.json"}, "f.json: no effect, as ans_sft"),
        ("visual_counting", "cot_sft", {"file": "f", "system": "s"}, "data.system_prompt asks"),
        ("spatial_transformation", ZERO_SHOT, {"variant": "caption"}, "as zero_shot asks"),
    ],
)
def test_fields_without_effect_are_refused(task, paradigm, fields, message):
    with pytest.raises(UserError, match=message):
        read_prompts(task, paradigm, **fields)


def test_targets():
    full = "<think>\nOne, two.\n</think>\n<answer>\n7319\n</answer>"
    empty = "<think>\n\n</think>\n<answer>\n7319\n</answer>"
    assert target(EXAMPLE, "cot_sft") == full
    assert target(EXAMPLE, "cot_sft", think=False) == empty
    assert target(dataclasses.replace(EXAMPLE, cot=None), "reason_rft") == empty


def test_unknown_names_list_the_choices():
    with pytest.raises(UserError, match="'rft' is unknown.*reason_rft_zero"):
        messages(EXAMPLE, "rft")
    with pytest.raises(UserError, match="'zero_shot' is unknown"):
        target(EXAMPLE, ZERO_SHOT)  # there's nothing that it would be taught
    with pytest.raises(UserError, match="'counting' is unknown.*visual_counting"):
        messages(dataclasses.replace(EXAMPLE, task="counting"), "cot_sft")


def test_a_custom_question_is_followed_by_the_configs_words_alone():
    example = dataclasses.replace(EXAMPLE, task="custom", answer="")
    assert _text(example, "reason_rft") == f"How many?\n{custom.INSTRUCTION}"
    for words, asked in (("", "How many?"), ("Look: {problem}", "Look: How many?")):
        prompts = read_prompts("custom", "reason_rft", instruction=words)
        assert _text(example, "reason_rft", prompts=prompts) == asked
    assert _text(example, ZERO_SHOT) == _text(example, "ans_sft") == "How many?"


def test_a_file_of_prompts_may_replace_the_custom_words(tmp_path):
    file = tmp_path / "own.json"
    file.write_text('{"custom": "From the file.", "custom.zero_shot": "Bare."}')
    prompts = read_prompts("custom", "reason_rft", file=str(file), instruction="From the config.")
    example = dataclasses.replace(EXAMPLE, task="custom")
    assert _text(example, "reason_rft", prompts=prompts) == "How many?\nFrom the file."
    assert _text(example, ZERO_SHOT, prompts=prompts) == "How many?\nBare."


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_sample_without_an_answer_is_no_target(paradigm):
    example = dataclasses.replace(EXAMPLE, task="custom", answer="")
    with pytest.raises(BadSample, match="no answer, and SFT teaches answers"):
        target(example, paradigm)
