from rrft_jax.accelerator.findings import Skip


def check():
    yield from ()
    raise Skip("nothing to compare with")
