"""The page on the objective: it is current, and its methods are valid configs."""

import pytest

from rrft_jax import command
from rrft_jax.training import algorithms, objectives


def test_the_page_is_current():
    text = algorithms.PAGE.read_text(encoding="utf-8")
    assert text == algorithms.page(), "run: python -m rrft_jax.training.algorithms"


def test_the_page_has_every_choice():
    rows = algorithms.page().splitlines()
    for field, choices in objectives.TERMS.items():
        for name in choices:
            assert any(f"| `{field}` |" in row and f"`{name}`" in row for row in rows)


@pytest.mark.parametrize("recipe", algorithms.RECIPES, ids=lambda recipe: recipe.name)
def test_the_command_takes_every_method(recipe):
    config, _ = command.parse([*recipe.arguments])
    for name, value in recipe.settings.items():
        assert str(getattr(config.grpo, name)).lower() == value or (
            float(getattr(config.grpo, name)) == float(value)
        )
