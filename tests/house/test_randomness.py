import pytest
import torch

from i2i_bridge.randomness import generator, key, per_sample, rand, randn_like


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


def test_one_generator_serves_the_samples_in_turn():
    """`per_sample` takes a single generator, from which the samples draw in turn, or exactly one per sample."""
    # kills: one-generator-cloned, generators-left-over
    one = generator(0, "turn")
    draws = [torch.rand(4, generator=g) for g in per_sample(one, 3)]
    again = generator(0, "turn")
    assert torch.equal(torch.stack(draws), torch.stack([torch.rand(4, generator=again) for _ in range(3)]))
    assert not torch.equal(draws[0], draws[1])
    for count in (2, 4):
        many = [generator(0, "turn", i) for i in range(count)]
        for draw in (lambda g: randn_like(torch.zeros(3, 2), g), lambda g: rand((3, 2), g), lambda g: per_sample(g, 3)):
            with pytest.raises(ValueError, match=f"{count} generators for a batch of 3"):
                draw(many)
