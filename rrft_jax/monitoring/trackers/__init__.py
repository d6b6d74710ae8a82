"""Trackers: TensorBoard, Weights & Biases and trackio show the numbers and completions of a run.

A tracker follows the files of the run's folder (`files.py`) in a process of its own
(`processes.py`, `follower.py`). The run writes its files, and knows nothing of the tracker. So no
tracker can slow or stop a run. A resumed run asks the tracker for the steps that it has, and sends
the others. This file imports no package of a tracker, because the settings read it.
"""

import importlib.metadata
from collections.abc import Sequence

from rrft_jax.errors import UserError

# The trackers, each with the file beside this one that has its class `Run`. The packages that they
# need, and the extras of setup.py, have the same names.
NAMES = ("tensorboard", "wandb", "trackio")


def check(names: Sequence[str]) -> None:
    """Check that the packages of some trackers are installed.

    Raises:
      UserError: a package is missing.
    """
    for name in names:
        try:
            importlib.metadata.distribution(name)  # a folder `wandb` could pass for the module
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                f"--config.trackers={name}: the package {name} is not installed; "
                f"pip install 'rrft_jax[{name}]'"
            ) from None
