"""The page on the objective: it is current."""

from rrft_jax.training import algorithms, objectives


def test_the_page_is_current():
    text = algorithms.PAGE.read_text(encoding="utf-8")
    assert text == algorithms.page(), "run: python -m rrft_jax.training.algorithms"


def test_the_page_has_every_choice():
    rows = algorithms.page().splitlines()
    for field, choices in objectives.TERMS.items():
        for name in choices:
            assert any(f"| `{field}` |" in row and f"`{name}`" in row for row in rows)
