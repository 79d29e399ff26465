"""Order of the items in an epoch: a keyed permutation computed position by position, without a list."""

from math import isqrt

from i2i_bridge.randomness import key

ROUNDS = 6


def shuffled(position: int, length: int, seed: int, epoch: int) -> int:
    """Index of the item at a position of an epoch; a permutation of range(length) for each (seed, epoch).

    A Feistel network on the a x a grid with the smallest a^2 >= length: in each round (left, right) becomes
    (right, left + f(right) mod a) with a keyed hash f, which is invertible for any f. It is repeated while the result
    is not below `length`, which keeps it one-to-one (Black and Rogaway, Ciphers with arbitrary finite domains, 2002);
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
