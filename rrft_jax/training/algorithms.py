"""Write `docs/algorithms.md`: the objective's terms, and the methods of `configs/objectives.py`.

python -m rrft_jax.training.algorithms
"""

import pathlib
from collections.abc import Iterator

from configs.objectives import OBJECTIVES, Objective
from rrft_jax import markdown
from rrft_jax.fields import described
from rrft_jax.origins import shown
from rrft_jax.settings import GRPOSettings
from rrft_jax.training import objectives

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "algorithms.md"


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

```sh
python -m rrft_jax.main --config=configs/grpo.py:objective=dapo
```

An objective stands for the settings that differ from the defaults. A run prints them at its start.
The command line wins over them.

{objectives}

The table is `configs/objectives.py`.

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
* **Combinations that are refused.** `ratio=cispo` with a `dual_clip`: the ratio is bounded already,
  whatever the advantage. A setting that has no effect: one of the KL with `beta=0`, an
  `importance_cap` with `importance_sampling=none`, and a clip or another `ratio` with one update a
  batch.
"""


def page() -> str:
    """Return the text of `docs/algorithms.md`."""
    return _TEMPLATE.format(
        objectives=markdown.table(
            ("objective", "method", "settings of `grpo`"), map(_objective_row, OBJECTIVES.items())
        ),
        terms=markdown.table(("field", "choice", "computes", "from"), _term_rows()),
        numbers=markdown.table(("field", "default", "meaning", "from"), _number_rows()),
        rounding=objectives.ROUNDING,
        epsilon=objectives.EPSILON,
        max_log_ratio=objectives.MAX_LOG_RATIO,
        max_k3=objectives.MAX_K3,
    )


def _objective_row(named: tuple[str, Objective]) -> tuple[str, ...]:
    name, objective = named
    fields = objective.fields.items()
    settings = " ".join(f"{key.removeprefix('grpo.')}={shown(value)}" for key, value in fields)
    cell = "; ".join(filter(None, (settings and f"`{settings}`", objective.note)))
    return f"`{name}`", f"[{objective.title}]({objective.paper})", cell


def _term_rows() -> Iterator[tuple[str, ...]]:
    defaults = {found.own.name: found.default for found in described(GRPOSettings)}
    for field, choices in objectives.TERMS.items():
        for name, choice in choices.items():
            shown = f"**`{name}`**" if name == defaults[field] else f"`{name}`"
            yield f"`{field}`", shown, choice.description, f"[{choice.origin}]({choice.paper})"


def _number_rows() -> Iterator[tuple[str, ...]]:
    numbers = {found.own.name: found for found in described(GRPOSettings)}
    for name, origin in _FIELDS.items():
        found = numbers[name]
        yield f"`{name}`", markdown.code(found.default), found.meaning, origin


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
