from rrft_jax.accelerator.findings import at_least, at_most


def check():
    yield at_most("error", 0.5, 0.1)
    yield at_least("share", None, 0.6)
