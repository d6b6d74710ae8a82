"""The three attentions of this project, and the libraries that compute them.

  segment   patches see the patches of their own picture or window, in both directions
  causal    a prompt token sees the prompt tokens before it
  group     a completion token sees its whole prompt and its own past, under one softmax

`group` makes a group of completions cheap. The keys and values of the prompt are in memory once,
whatever the number of completions, and all completions read them as one matrix. For G=2
completions of T=3 tokens over P=4 prompt tokens, the second completion's tokens see

            prompt     completion 0   completion 1
  token 0   1 1 1 1    . . .          1 . .
  token 1   1 1 1 1    . . .          1 1 .
  token 2   1 1 1 1    . . .          1 1 1

Each has a plain form (`xla.py`), a form by splash attention for TPUs (`splash.py`), and a form by
cuDNN for GPUs (`cudnn.py`). The forms agree wherever a result is used; they differ in the keys that
padding sees. The sampler's own form, for one query per sequence, is in `decoding.py`.
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
