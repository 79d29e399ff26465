"""A unit of processor time that is the same amount of work on a fast machine and on a slow one."""

import functools
import time


@functools.cache
def unit() -> float:
    """Processor seconds that this machine takes for a million turns of a Python loop: the least of three tries.

    Some hundredths of a second; limits of time in tests are multiples of it.
    """
    tries = []
    for _ in range(3):
        start, total = time.process_time(), 0
        for i in range(1_000_000):
            total += i & 1
        tries.append(time.process_time() - start)
    return min(tries)
