"""The settings: what is unknown, of the wrong type or without sense is named in one line."""

import dataclasses

import pytest

from rrft_jax import fields, settings
from rrft_jax.errors import UserError
from rrft_jax.settings import Config, GRPOSettings, SFTSettings

SECTIONS = {"": Config, **fields.sections(Config)}


def test_every_field_has_a_meaning_and_a_default_that_its_rule_takes():
    for section in SECTIONS.values():
        described = {found.key: found for found in fields.described(section)}
        own_names = {own.name for own in dataclasses.fields(section)}
        assert described.keys() == own_names - fields.sections(section).keys()
        for found in described.values():
            assert found.meaning.endswith("."), found.key
            assert found.rule.holds(found.default), found.key


def test_plain_values_and_back():
    config = Config(stages=("grpo",), grpo=GRPOSettings(rewards={"accuracy": 1.0}))
    values = fields.plain(config)
    assert "sft" not in values and values["grpo"]["beta"] == 0.04
    assert settings.make(values) == config


def test_an_integer_will_do_for_a_number_and_a_list_for_a_tuple():
    made = settings.make({"stages": ["sft"], "sft": {"learning_rate": 1}})
    assert made.sft.learning_rate == 1.0 and isinstance(made.sft.learning_rate, float)
    assert made.stages == ("sft",)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sed": 1}, "unknown config key sed: config has best_metric, best_split, "),
        ({"grpo": {"betta": 1}}, "unknown config key grpo.betta: config.grpo has advantages, "),
        ({"seed": 1.5}, "--config.seed=1.5: expected an integer, found float"),
        ({"eval": {"sampled": 1}}, "--config.eval.sampled=1: expected true or false, found int"),
        ({"data": {"path": None}}, "--config.data.path=None: expected a text, found NoneType"),
        ({"grpo": 1}, "--config.grpo=1: expected a section, a mapping of its fields"),
        ({"data": {"buckets": 0}}, "--config.data.buckets=0: expected 1 or more"),
        ({"stages": ("sft",)}, "--config.stages=sft: this config has no section sft"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(UserError) as error:
        settings.make(values)
    assert message in str(error.value)


def test_fields_are_replaced_by_their_names():
    config = Config(sft=SFTSettings())
    changed = fields.replaced(config, {"sft.micro_batches": 2, "mesh.fsdp": 4, "seed": 3})
    assert (changed.sft.micro_batches, changed.mesh.fsdp, changed.seed) == (2, 4, 3)
    assert config == Config(sft=SFTSettings())


@pytest.mark.parametrize(
    "values, message",
    [
        ({"task": "counting"}, "--config.task: task 'counting' is unknown; choose one of visual_c"),
        ({"eval": {"tasks": ["a.b"]}}, "--config.eval.tasks: task 'a.b': ModuleNotFoundError"),
        ({"eval": {"tasks": ["custom"] * 2}}, "--config.eval.tasks=custom,custom: expected each o"),
        ({"eval": {"rewards": {"acuracy": 1}}}, "--config.eval.rewards.acuracy: reward 'acuracy'"),
        ({"task": "custom", "custom": {"answers": "box"}}, "custom.answers=box: expected one of a"),
        ({"best_metric": "reward"}, "--config.best_metric=reward: expected one of accuracy; --con"),
    ],
)
def test_mistakes_about_tasks_and_evaluation(values, message):
    with pytest.raises(UserError) as error:
        settings.make(values)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_best_may_be_chosen_by_a_reward():
    for metric in ("", "accuracy", "format", "reward"):
        values = {"best_metric": metric, "eval": {"rewards": {"format": 1}}}
        assert settings.make(values).best_metric == metric
