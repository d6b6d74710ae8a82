import time

from rrft_jax.accelerator.findings import told


def check():
    yield told("before", 1)
    print("a library prints", flush=True)
    time.sleep(600)
