import no_such_package  # noqa: F401


def check():
    yield from ()
