"""Minibatches of given arrays, for tests of the loss and the update."""

import numpy as np

from rrft_jax.rollout import Rollouts
from rrft_jax.training.loss import Minibatch, Scores


def minibatch(tokens, mask, advantages, *, prompt=None, finished=None, rollout=None, **scores):
    """A `Minibatch` of completions [B,G,T]; `rollout` and `scores` are log-probabilities."""
    if finished is None:
        finished = np.ones(mask.shape[:2], bool)
    if rollout is None:
        rollout = np.zeros(mask.shape, np.float32)
    return Minibatch(
        Rollouts(prompt, tokens, mask, finished, rollout), Scores(**scores), advantages
    )
