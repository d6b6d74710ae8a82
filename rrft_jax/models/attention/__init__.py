"""The three attentions of this project, and which library computes them.

  segment   patches see the patches of their own picture, in both directions
  causal    a prompt token sees the prompt tokens before it
  group     a completion token sees its whole prompt and its own past, under one softmax

`group` is what makes a group of completions cheap: the keys and values of the prompt stand once
in memory, whatever the number of completions, and are read as one matrix by all of them. For G=2
completions of T=3 tokens over P=4 prompt tokens, the second completion's tokens see

            prompt     completion 0   completion 1
  token 0   1 1 1 1    . . .          1 . .
  token 1   1 1 1 1    . . .          1 1 .
  token 2   1 1 1 1    . . .          1 1 1

Each has a plain form (`xla.py`), one by splash attention for TPUs (`splash.py`), and one by cuDNN
for GPUs (`cudnn.py`). They agree wherever a result is read: what padding sees differs. The
sampler's own, for one query a row, is in `decoding.py`.
"""

from rrft_jax.models.attention.dispatch import (
    CHOICES,
    PLAIN,
    Kernels,
    causal,
    choose,
    group,
    segment,
)
from rrft_jax.models.attention.keys import KeyValues

__all__ = ["CHOICES", "PLAIN", "KeyValues", "Kernels", "causal", "choose", "group", "segment"]
