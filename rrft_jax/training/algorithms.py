"""Write `docs/algorithms.md`: the objective's terms and the known methods, from the registry.

python -m rrft_jax.training.algorithms
"""

import dataclasses
import pathlib
from collections.abc import Iterator

from rrft_jax import markdown
from rrft_jax.fields import described
from rrft_jax.settings import GRPOSettings
from rrft_jax.training import objectives

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "algorithms.md"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method from a paper: the fields of `grpo` that differ from the defaults."""

    name: str
    paper: str  # URL
    settings: dict[str, str]
    note: str = ""

    @property
    def arguments(self) -> list[str]:
        """The overrides in the form that the command line takes."""
        return [f"--config.grpo.{name}={value}" for name, value in self.settings.items()]


RECIPES = (
    Recipe("GRPO, as in Reason-RFT", "https://arxiv.org/abs/2503.20752", {}, "the defaults"),
    Recipe(
        "DAPO",
        "https://arxiv.org/abs/2503.14476",
        {
            "aggregation": "token",
            "epsilon_high": "0.28",
            "beta": "0",
            "dynamic_sampling": "4",
            "mask_truncated": "true",
        },
        "the paper sets no limit to `dynamic_sampling`; the 4 is ours",
    ),
    Recipe(
        "Dr. GRPO",
        "https://arxiv.org/abs/2503.20783",
        {"aggregation": "constant", "advantages": "group", "beta": "0"},
    ),
    Recipe(
        "GSPO",
        "https://arxiv.org/abs/2507.18071",
        {
            "ratio": "sequence",
            "epsilon_low": "3e-4",
            "epsilon_high": "4e-4",
            "beta": "0",
            "mini_batches": "4",
        },
    ),
    Recipe(
        "CISPO",
        "https://arxiv.org/abs/2506.13585",
        {"ratio": "cispo", "epsilon_low": "1", "aggregation": "token", "beta": "0"},
    ),
    Recipe(
        "RLOO",
        "https://arxiv.org/abs/2402.14740",
        {"advantages": "rloo", "kl_in": "reward", "kl": "k1"},
    ),
)

# Fields of `grpo` that shape the objective beside its terms, and the source of each.
_FIELDS = {
    "num_generations": "[GRPO](https://arxiv.org/abs/2402.03300)",
    "num_iterations": "[PPO](https://arxiv.org/abs/1707.06347)",
    "mini_batches": "[PPO](https://arxiv.org/abs/1707.06347)",
    "epsilon_low": "[PPO](https://arxiv.org/abs/1707.06347)",
    "epsilon_high": "clip-higher: [DAPO](https://arxiv.org/abs/2503.14476)",
    "dual_clip": "[dual clip](https://arxiv.org/abs/1912.09729)",
    "beta": "[GRPO](https://arxiv.org/abs/2402.03300)",
    "reference_dtype": "",
    "entropy_bonus": "[A3C](https://arxiv.org/abs/1602.01783)",
    "mask_truncated": "[DAPO](https://arxiv.org/abs/2503.14476)",
    "dynamic_sampling": "[DAPO](https://arxiv.org/abs/2503.14476)",
    "importance_cap": "[V-trace](https://arxiv.org/abs/1802.01561)",
}

_TEMPLATE = """\
<!-- Written by `python -m rrft_jax.training.algorithms`: change that file, not this one. -->
# The objective

GRPO and its relatives share one objective, which is maximized:

```
importance weight x surrogate + entropy_bonus x entropy - beta x KL
```

Each term is a function in `rrft_jax/training/objectives.py`, and a field of the config's section
`grpo` chooses it by name. The defaults are those of [Reason-RFT](https://arxiv.org/abs/2503.20752).

## Methods

Each row lists the settings that differ from the defaults.

{recipes}

On the command line, DAPO is

```sh
python -m rrft_jax.main --config=configs/grpo.py \\
    {example}
```

## Terms

**Bold** is the default.

{terms}

## Numbers

{numbers}

## Notes

* **Flat groups.** If all rewards of a group are equal, its advantages are exactly 0. Rewards
  count as equal if they differ by less than {rounding:g} of their size: sums of the same terms in
  another order differ by rounding, and a division by such a standard deviation would make
  advantages of it. Before that division, {epsilon:g} is added to the standard deviation.
* **Bounds.** A logarithm of a ratio is clipped to ±{max_log_ratio:g} before its exponential, and
  `k3` is at most {max_k3:g}, as in [verl](https://arxiv.org/abs/2409.19256). exp(89) is already
  infinite in float32. Beyond a bound a token has no gradient.
* **No reference.** With `beta=0` no reference policy is kept in memory.
* **The first update.** Until an update has moved the policy, the policy is the reference, and the
  KL and its gradient are exactly 0. The two log-probabilities come from two programs, perhaps
  from weights in fewer bits, and differ by rounding; Adam would scale that rounding up to a full
  step.
* **The KL in the reward** is that of the policy that sampled, summed over a completion's tokens,
  and part of the reward before advantages are computed. With `k1` it is the usual penalty of
  RLHF.
* **Old log-probabilities.** With one update a batch (`num_iterations=1`, `mini_batches=1`) the
  policy is still the one that sampled. The ratio is then 1 and its gradient that of REINFORCE.
* **`mask_truncated`** is DAPO's overlong filtering: a completion that was cut off may have been
  on its way to a right answer, so its length is not punished.
* **`dynamic_sampling`** replaces flat groups by groups of fresh prompts that are not flat. Each
  further batch has the size of the first. Groups that are left over are dropped, so that a step
  depends on the state and the loader alone.
* **`importance_sampling`** corrects for the sampler's temperature, top-k, top-p and arithmetic.
  `mismatch_kl` in `metrics.jsonl` measures the difference, whether it is corrected or not.
* **Micro-batches** change no result: the weights of `aggregation` are computed for the whole
  batch.
* **A combination that is refused**: `ratio=cispo` with a `dual_clip`, because the ratio is
  bounded already, whatever the advantage.
"""


def page() -> str:
    """Return the text of `docs/algorithms.md`."""
    [dapo] = [recipe for recipe in RECIPES if recipe.name == "DAPO"]
    return _TEMPLATE.format(
        recipes=markdown.table(("method", "settings of `grpo`"), map(_recipe_row, RECIPES)),
        example=" \\\n    ".join(dapo.arguments),
        terms=markdown.table(("field", "choice", "computes", "from"), _term_rows()),
        numbers=markdown.table(("field", "default", "meaning", "from"), _number_rows()),
        rounding=objectives.ROUNDING,
        epsilon=objectives.EPSILON,
        max_log_ratio=objectives.MAX_LOG_RATIO,
        max_k3=objectives.MAX_K3,
    )


def _recipe_row(recipe: Recipe) -> tuple[str, ...]:
    settings = " ".join(f"{name}={value}" for name, value in recipe.settings.items())
    cell = "; ".join(filter(None, (settings and f"`{settings}`", recipe.note)))
    return f"[{recipe.name}]({recipe.paper})", cell


def _term_rows() -> Iterator[tuple[str, ...]]:
    defaults = {own.name: own.default for own, _, _ in described(GRPOSettings)}
    for field, choices in objectives.TERMS.items():
        for name, choice in choices.items():
            shown = f"**`{name}`**" if name == defaults[field] else f"`{name}`"
            yield f"`{field}`", shown, choice.description, f"[{choice.origin}]({choice.paper})"


def _number_rows() -> Iterator[tuple[str, ...]]:
    meanings = {own.name: (own.default, meaning) for own, meaning, _ in described(GRPOSettings)}
    for name, origin in _FIELDS.items():
        default, meaning = meanings[name]
        yield f"`{name}`", markdown.code(default), meaning, origin


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
