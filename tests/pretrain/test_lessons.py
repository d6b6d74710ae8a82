import numpy as np
import pytest

from rrft_jax.data import prompts
from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.pretrain.__main__ import row
from rrft_jax.pretrain.lessons import LESSONS, SLOTS, TOKENS, random_sum
from rrft_jax.tasks import TASKS


def lessons(task, phase, number=20):
    return [LESSONS[task](np.random.default_rng([0, i]), phase, 1.0) for i in range(number)]


@pytest.mark.parametrize("phase", ["perceive", "answer"])
@pytest.mark.parametrize("task", LESSONS)
def test_every_lesson_of_a_task_fills_the_same_shape(task, phase):
    taught = lessons(task, phase)
    assert len({(len(lesson.texts), len(lesson.images)) for lesson in taught}) == 1
    for lesson in taught:
        assert all(image.size == (TINY_SIZE, TINY_SIZE) for image in lesson.images)
        assert len(lesson.words) == TOKENS**2 * len(lesson.images)
        assert all(len(shown) == len(SLOTS[task]) for shown in lesson.words)
        assert all(question and answer for text in lesson.texts for question, answer in text)


@pytest.mark.parametrize("task", LESSONS)
def test_a_lesson_is_a_function_of_the_generator(task):
    first, again = (LESSONS[task](np.random.default_rng(5), "answer", 1.0) for _ in range(2))
    assert (first.texts, first.words) == (again.texts, again.words)
    for image, other in zip(first.images, again.images, strict=True):
        np.testing.assert_array_equal(image, other)


@pytest.mark.parametrize("task", LESSONS)
def test_no_lesson_shows_a_chain_of_thought_or_a_tag(task):
    text = " ".join(
        f"{question} {answer}"
        for phase in ("perceive", "answer")
        for lesson in lessons(task, phase, 40)
        for conversation in lesson.texts
        for question, answer in conversation
    )
    assert "think" not in text and "<" not in text
    thought = TASKS[task].sample("train", 0, 0, 28).cot
    assert thought not in text


@pytest.mark.parametrize("task", LESSONS)
def test_words_of_visual_tokens_are_one_token_each(task, processor):
    for lesson in lessons(task, "perceive"):
        for shown in lesson.words:
            for word in filter(None, shown):
                assert len(processor.encode_target(word)) == 2, word  # and the end of turn


@pytest.mark.parametrize("task", LESSONS)
def test_the_vocabulary_has_the_tasks_frequent_words(task, processor):
    for index in range(5):
        example = TASKS[task].sample("train", 0, index, 28)
        text = f"{example.problem} {prompts.target(example, 'reason_rft')}"
        tokens = processor.encode_target(text)
        assert len(text) / len(tokens) > 2.2  # bytes alone would give 1


def test_sums_are_right():
    rng = np.random.default_rng(0)
    sums = [random_sum(rng) for _ in range(200)]
    assert len({working for working, _ in sums}) > 100
    for working, value in sums:
        worth = eval(working.replace("^", "**").replace("sqrt", "(lambda x: x**0.5)"))
        result = eval(value.replace("^", "**").replace("sqrt", "(lambda x: x**0.5)"))
        assert worth == pytest.approx(result)


@pytest.mark.parametrize("task", LESSONS)
def test_conversations_go_on_while_there_is_room_and_only_answers_carry_loss(task, processor):
    lesson = LESSONS[task](np.random.default_rng(1), "answer", 1.0)
    texts = row(processor, lesson, 160).texts
    for tokens, mask, conversation in zip(texts.completions, texts.mask, lesson.texts):
        assert (tokens != processor.pad_token).mean() > 0.6
        # Every answer, its end of turn included, is a run of tokens with loss; the first is given.
        starts = np.flatnonzero(np.diff(np.r_[0, mask]) == 1)
        ends = np.flatnonzero(np.diff(np.r_[mask, 0]) == -1)
        assert len(starts) > 1
        assert processor.decode(tokens[starts[0] : ends[0] + 1]) == conversation[0][1]
        assert all(tokens[end] == processor.stop_tokens[0] for end in ends)
