"""Processes that tell each other how far they are until one is missing; run by test_namespaces."""

import sys
import time

from rrft_jax.parallel import distributed


def main(coordinator: str, number: int, process_id: int, heartbeat: int) -> None:
    distributed.initialize(coordinator, number, process_id, heartbeat)
    with distributed.leaving_together():
        for step in range(10_000):
            assert distributed.gather((step, process_id)) == [(step, i) for i in range(number)]
            print(f"step {step}.", flush=True)
            time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
