import torch

from i2i_bridge.randomness import generator, key, rand, randn_like


def test_keys_are_stable_and_distinct():
    # A literal: a changed key would change every published number.
    assert key(0, "degradation", "photo") == 0xB41F2A4E4FF958C3
    parts = [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", "1"), (0, "a", 1, 1), (0, "a", 11)]
    assert len({key(*part) for part in parts}) == len(parts)


def test_per_sample_noise_does_not_depend_on_the_batch():
    x = torch.zeros(3, 2, 5)
    together = randn_like(x, [generator(0, "n", i) for i in range(3)])
    alone = randn_like(x[1:2], [generator(0, "n", 1)])
    assert torch.equal(together[1], alone[0])
    assert torch.equal(rand((3,), [generator(0, "u", i) for i in range(3)])[2:], rand((1,), [generator(0, "u", 2)]))
