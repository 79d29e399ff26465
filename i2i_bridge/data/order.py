"""The order of an epoch: a keyed permutation that needs no list, so that an epoch starts at once at any size."""

from math import isqrt

from i2i_bridge.randomness import key

ROUNDS = 6


def shuffled(position: int, length: int, seed: int, epoch: int) -> int:
    """Which of `length` items stands at a position of an epoch; over all positions each item comes once.

    A Feistel network on the a x a grid with the smallest a^2 >= length: in each round (left, right) becomes
    (right, left + f(right) mod a) with a keyed hash f, which is invertible whatever f is. Where it leads past the
    length it is walked on, which keeps it one to one (Black and Rogaway, Ciphers with arbitrary finite domains, 2002);
    as a^2 < length + 2 sqrt(length) + 1 that is rare.
    """
    side = isqrt(length - 1) + 1
    while True:
        left, right = divmod(position, side)
        for turn in range(ROUNDS):
            left, right = right, (left + key(seed, "order", epoch, turn, right)) % side
        position = left * side + right
        if position < length:
            return position
