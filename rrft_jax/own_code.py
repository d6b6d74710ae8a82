"""Objects of the user's own Python code, found by a dotted path, such as `my_rewards.iou`.

A command that is started by its name, and not by `python -m`, does not look for modules in the
current folder. Users expect it to, so the current folder is searched last.
"""

import importlib
import os
import sys
from typing import Any


def find(path: str) -> Any:
    """Return the object at a dotted path: a module, a dot, and a name inside of it.

    Raises:
      ImportError, AttributeError: there is no such module or name. The module's own code may raise
        anything else.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
