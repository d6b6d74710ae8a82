"""Configs: the argument string, the public hyperparameters, and that all of them check out."""

import itertools
import pathlib

import pytest

from configs import base, eval, grpo, sft, study
from rrft_jax import rewards
from rrft_jax.data.prompts import PARADIGMS, ZERO_SHOT
from rrft_jax.errors import UserError
from rrft_jax.settings import Config, GRPOSettings, make
from rrft_jax.tasks import TASKS
from rrft_jax.training import objectives

FILES = {
    sft: ("cot_sft", "ans_sft"),
    grpo: ("reason_rft", "reason_rft_zero"),
    eval: (*PARADIGMS, ZERO_SHOT),
    study: study.PARADIGMS,
}


def test_every_choice_makes_a_valid_config():
    for file, paradigms in FILES.items():
        for model, task, paradigm in itertools.product(base.MODELS, TASKS, paradigms):
            config = file.get_config(f"model={model},task={task},paradigm={paradigm}")
            made = make(config.to_dict())
            objectives.check(made.grpo)
            assert (config.model.name, config.task, config.paradigm) == (model, task, paradigm)


@pytest.mark.parametrize(
    "file, arg, message",
    [
        (grpo, "model=3b", "'model=3b': model is one of tiny, 2b, 7b, qwen2_5_vl_3b"),
        (grpo, "task=x", "visual_counting, structure_perception, spatial_transformation"),
        (grpo, "paradigm=cot_sft", "paradigm is one of reason_rft, reason_rft_zero"),
        (grpo, "paradigm=zero_shot", "paradigm is one of reason_rft, reason_rft_zero"),
        (sft, "paradigm=reason_rft", "paradigm is one of cot_sft, ans_sft"),
        (eval, "paradigm=x", "reason_rft, reason_rft_zero, cot_sft, ans_sft"),
        (grpo, "size=2b", "'size=2b': expected name=choice with name one of model, task, paradigm"),
        (grpo, "objective=ppo", "objective is one of grpo, dapo, dr_grpo, gspo, cispo, rloo"),
        (sft, "objective=dapo", "with name one of model, task, paradigm"),
        (grpo, "tuning=qlora", "tuning is one of full, lora"),
        (eval, "tuning=lora", "with name one of model, task, paradigm"),
        (grpo, "2b", "'2b': expected name=choice"),
    ],
)
def test_unknown_choices_are_listed(file, arg, message):
    with pytest.raises(UserError) as error:
        file.get_config(arg)
    assert message in str(error.value)


def test_every_experiment_has_a_file_with_its_command():
    folder = pathlib.Path(base.__file__).parent
    tuned = {
        key for file in FILES for key in file.EXPERIMENTS
    }  # 2b and 7b need no file: they have the defaults
    assert {model for model, _, _ in tuned} == {"tiny"}
    for file in folder.glob("*.py"):
        if file.name != "base.py":
            text = file.read_text(encoding="utf-8")
            assert "python -m rrft_jax.main" in text.split('"""')[1], file
            assert "\n    if " not in text and "\nif " not in text, f"{file} branches"


def test_a_field_that_does_not_exist_is_named():
    choice = base.choose("", ("reason_rft",))
    for key in ("sed", "grpo.betta", "gpro.beta"):
        with pytest.raises(UserError, match=f"unknown config key {key}"):
            base.base(choice, {choice.experiment: {key: 1}}, Config(grpo=GRPOSettings()))


@pytest.mark.parametrize("model, faster", [("tiny", 3), ("2b", 10)])
def test_an_adapter_has_higher_learning_rates(model, faster):
    for file in (sft, grpo):
        full, lora = (file.get_config(f"model={model},tuning={name}") for name in ("full", "lora"))
        assert (full.lora.rank, lora.lora.rank, lora.lora.alpha) == (0, 64, 64)
        for stage in full.stages:
            assert lora[stage].learning_rate == pytest.approx(faster * full[stage].learning_rate)
            lora[stage].learning_rate = full[stage].learning_rate
        lora.lora.rank = 0
        assert lora == full


def test_argument_takes_any_order_and_spaces():
    config = sft.get_config(" paradigm = ans_sft , model=7b,")
    assert (config.model.name, config.paradigm) == ("7b", "ans_sft")


@pytest.mark.parametrize("model", ["2b", "7b"])
def test_public_hyperparameters(model):
    config = grpo.get_config(f"model={model},task=spatial_transformation")
    assert config.stages == ("sft", "grpo")
    # The paper's 3,136 is the lower limit of the released folders.
    assert (config.data.min_pixels, config.data.max_pixels) == (0, 480_000)
    assert (config.data.max_prompt_length, config.data.activation_samples) == (4096, 1600)
    assert not config.data.reuse_activation and config.data.thought_dropout == 0
    sampling = config.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.9, 0.9, 50)
    assert sampling.max_new_tokens == 512
    stage = config.grpo
    assert (stage.batch_size, stage.num_generations, stage.micro_batches) == (16, 8, 0)
    assert (stage.learning_rate, stage.schedule, stage.warmup_steps) == (1e-6, "linear", 0)
    assert (stage.weight_decay, stage.beta, stage.num_iterations) == (0, 0.04, 1)
    assert (stage.epochs, stage.freeze) == (1, "")
    assert (stage.advantages, stage.ratio, stage.aggregation) == ("group_std", "token", "sequence")
    assert (stage.kl, stage.kl_in, stage.importance_sampling) == ("k3", "loss", "none")
    assert not (stage.dual_clip or stage.entropy_bonus or stage.mask_truncated)
    assert (stage.dynamic_sampling, stage.mini_batches) == (0, 1)
    assert set(stage.rewards) <= set(rewards.names())
    evaluation = eval.get_config(f"model={model}").eval
    assert (evaluation.temperature, evaluation.top_p, evaluation.top_k) == (0.1, 0.9, 50)
    assert (evaluation.max_new_tokens, evaluation.passes) == (768, 1)

    config = sft.get_config(f"model={model}")
    stage = config.sft
    assert config.stages == ("sft",) and config.data.max_pixels == 512 * 512
    assert (stage.batch_size, stage.micro_batches, stage.epochs) == (16, 0, 1)
    assert (stage.learning_rate, stage.schedule, stage.warmup_steps) == (1e-5, "cosine", 100)
    assert (stage.weight_decay, stage.clip_norm, stage.freeze) == (0.1, 1.0, "vision/.*")
    assert (stage.b1, stage.b2, stage.eps) == (0.9, 0.999, 1e-8)


def test_structure_perception_reinforces_on_everything_for_five_epochs():
    config = grpo.get_config("model=2b,task=structure_perception")
    assert config.data.reuse_activation and config.grpo.epochs == 5


def test_zero_reinforces_at_once_and_eval_trains_nothing():
    assert grpo.get_config("paradigm=reason_rft_zero").stages == ("grpo",)
    assert eval.get_config().stages == ()


def test_each_task_is_rewarded_for_its_own_kind_of_answer():
    rewards_of = {
        task: grpo.get_config(f"model=2b,task={task}").grpo.rewards.to_dict() for task in TASKS
    }
    assert rewards_of == {
        "visual_counting": {"accuracy": 1, "format": 1},
        "structure_perception": {"math_accuracy": 1, "format": 1},
        "spatial_transformation": {"transformation_full": 1, "format": 1},
    }
    assert set().union(*rewards_of.values()) <= set(rewards.names())


def test_a_task_is_custom_or_a_module_of_the_users_own(tmp_path, monkeypatch):
    for file, paradigms in FILES.items():
        for paradigm in paradigms:
            config = make(file.get_config(f"task=custom,paradigm={paradigm}").to_dict())
            assert config.task == "custom"
    (tmp_path / "mine_of_configs").mkdir()
    (tmp_path / "mine_of_configs/boxes.py").write_text(
        "from rrft_jax.tasks import Task, Wording\n"
        "TASK = Task(name='boxes', wording=Wording({'': ''}, {'': ''}), rewards={'tags': 2})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = make(grpo.get_config("task=mine_of_configs.boxes").to_dict())
    assert config.task == "mine_of_configs.boxes" and config.grpo.rewards == {"tags": 2}
    with pytest.raises(UserError, match="task 'mine_of_configs.none': ModuleNotFoundError"):
        grpo.get_config("task=mine_of_configs.none")
