"""The check of shapes and dtypes that tests put on the functions of the model and the sampler."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

_CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float


def checked(function: Callable) -> Callable:
    """Check the arguments and the result of a function against its annotations.

    Constructors go unchecked: trees of shapes, axes and shardings are made of the same records as
    trees of arrays.
    """
    return function if function.__name__ == "__init__" else beartype(function, conf=_CONF)
