import os
import signal

from rrft_jax.accelerator.findings import told


def check():
    yield told("before", 1)
    os.kill(os.getpid(), signal.SIGSEGV)
