"""Under the template of a Thinking model, what is asked, taught and rewarded is one whole reply."""

import pickle
import types

import numpy as np
import pytest

from configs import grpo
from rrft_jax import rewards, settings
from rrft_jax.assets import TINY
from rrft_jax.data import Processor, Prompts, Source, messages, target
from rrft_jax.data.dry_call import check_rewards
from rrft_jax.data.show import lines
from rrft_jax.data.show.__main__ import main as show
from rrft_jax.data.sources import Data
from rrft_jax.errors import UserError
from rrft_jax.rollout import Rollouts
from rrft_jax.tasks import TASKS
from rrft_jax.tasks.opening import reply_of
from rrft_jax.training.rewarding import reward
from tests.loading import example_of, loader_of
from tests.thinking import FIRST, INSTRUCT, THINKING, make

CHAT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
END = "<|im_start|>assistant\n<think>\n"
TASK = TASKS["visual_counting"]


@pytest.fixture(scope="module", params=[False, True, None], ids=["ordinary", "special", "pieces"])
def processor(request, tmp_path_factory):
    """Of a folder whose tags are tokens of this flag, or no tokens."""
    folder = tmp_path_factory.mktemp("models") / "thinking"
    return Processor.from_pretrained(make(folder, THINKING, request.param))


@pytest.fixture(scope="module")
def instruct(tmp_path_factory):
    return Processor.from_pretrained(make(tmp_path_factory.mktemp("models") / "a", INSTRUCT))


def test_the_template_of_the_folder_decides(processor, instruct):
    assert instruct.prompt_text(CHAT) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert instruct.prompt_end == Processor.from_pretrained(TINY).prompt_end == "assistant\n"
    assert processor.prompt_text(CHAT).endswith(END)
    assert processor.prompt_end == pickle.loads(pickle.dumps(processor)).prompt_end
    assert processor.prompt_end == "assistant\n<think>\n"
    tokens = processor.encode([{"role": "user", "content": "How many?"}]).tokens
    assert processor.decode(tokens).endswith("assistant\n<think>\n")


def test_a_tag_in_a_question_is_text_of_the_question(processor):
    """It is spelt as the tokenizer spells it, and neither opens a thought nor is lost."""
    asked = "Say </think> or <think>\n"
    chat = [{"role": "user", "content": asked}]
    tokens = processor.encode(chat).tokens
    assert asked in processor.prompt_text(chat) and asked in processor.decode(tokens)
    tags = [np.sum(tokens == FIRST + i) for i in range(2)]
    has_tokens = FIRST in processor._tokenizer.added_tokens_decoder
    assert tags == ([2, 1] if has_tokens else [0, 0])  # one of them is the template's


@pytest.mark.parametrize("dropout", [0.0, 1.0])
@pytest.mark.parametrize("paradigm", ["cot_sft", "ans_sft"])
def test_sft_teaches_the_completion_of_the_whole_reply(processor, paradigm, dropout):
    examples = [example_of(index) for index in range(4)]
    options = {"paradigm": paradigm, "thought_dropout": dropout}
    (batch,) = loader_of(examples, processor, **options)
    for b, example in enumerate(batch.examples):
        tokens = batch.completions[b, 0][batch.completion_mask[b, 0]]
        assert tokens[-1] == processor.encode_target("")[0]
        reply = reply_of(TASK, batch.prompt_texts[b], processor.decode(tokens))
        taught = target(example, paradigm, think=not dropout)
        assert reply == (taught if paradigm == "cot_sft" else f"<think>\n\n</think>\n\n{taught}")
        values = {"accuracy": 1, "format": float(paradigm == "cot_sft" and not dropout)}
        for name, value in values.items():
            assert rewards.score(name, [reply], example) == [value]
    shown = "\n".join(lines(batch, 0, processor)).rpartition("<|im_start|>")[2]
    assert shown.count("think") == 2  # the prompt's tag, and the end of the thought in the target


def test_grpo_rewards_the_whole_reply_and_writes_it_down(processor):
    examples = [example_of(0, answer="2")]
    chat = messages(examples[0], "reason_rft_zero")
    texts = ["One.\n</think>\n<answer>\n2\n</answer>", "<think>\nA\n</think>\n<answer>2</answer>"]
    tokens = [processor.encode_target(text) for text in texts]
    length = max(map(len, tokens))
    padded = np.array([own + [processor.pad_token] * (length - len(own)) for own in tokens])
    mask = np.array([[True] * len(own) + [False] * (length - len(own)) for own in tokens])
    batch = types.SimpleNamespace(
        prompt=processor.batch([processor.encode(chat, examples[0].images)]),
        examples=examples,
        sources=[Source(examples)],
        prompt_texts=[processor.prompt_text(chat)],
        row_ids=[0],
    )
    sampled = Rollouts(
        prompt=None,
        tokens=padded[None],
        mask=mask[None],
        finished=np.ones((1, 2), bool),
        rollout_log_probs=np.zeros((1, 2, length)),
    )
    terms = rewards.read_terms({"accuracy": 1.0, "format": 1.0})
    found = reward(sampled, batch, terms, processor, 1)
    assert found.texts.tolist() == [["<think>\n" + text for text in texts]]
    assert found.rewards.by_name["format"].tolist() == [[1, 0]]  # the second opens it twice
    assert found.rewards.by_name["accuracy"].tolist() == [[1, 1]]


def _check(processor, *fields, **example):
    config = grpo.get_config("model=2b")
    for key, value in fields:
        config.data[key] = value
    config = settings.make(config.to_dict())
    examples = [example_of(index, **example) for index in range(3)]
    source = Source(examples, Prompts(variant=config.data.variant))
    check_rewards(config, Data({"sft": [source]}, {}), processor.prompt_end)


def test_the_dry_call_scores_whole_replies(processor, instruct, capsys):
    tables = []
    for one in (processor, instruct):
        _check(one)
        tables.append(capsys.readouterr().err)
    assert tables[0] == tables[1] and "format" in tables[0]
    captioned = {
        "task": "spatial_transformation",
        "answer": "change_size(1, 'small')",
        "preface": "<summary>\ns\n</summary>\n<caption>\nc\n</caption>",
    }
    with pytest.raises(UserError, match="set data.variant=, or give a model") as error:
        _check(processor, ("variant", "caption"), **captioned)
    assert "\n" not in str(error.value)


def test_samples_are_shown_with_the_rewards_of_whole_replies(tmp_path, capsys):
    folder = make(tmp_path / "model")
    arguments = ["--config=configs/grpo.py", f"--config.model.path={folder}", "-n", "1"]
    assert show([*arguments, "--stage=sft", f"--out={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "rewards of its answer: accuracy 1, format 1" in said


def test_a_template_that_fails_is_named(tmp_path):
    folder = make(tmp_path / "model", "{{ messages[1].content }}{{ raise_exception('no') }}")
    with pytest.raises(UserError, match="the chat template fails on a question") as error:
        Processor.from_pretrained(folder)
    assert "\n" not in str(error.value) and folder in str(error.value)
