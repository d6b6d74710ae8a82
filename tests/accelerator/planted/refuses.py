from rrft_jax.errors import UserError


def check():
    yield from ()
    raise UserError("this machine has no device")
