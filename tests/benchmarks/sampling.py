"""Sampling beside diffusers' UNet2DModel of the same weights: `python tests/benchmarks/sampling.py`.

64 x 64, 4.474 M parameters, batch 4, one thread (--threads): a network call in fp32 and bf16, how far the outputs are
apart, what the sampler adds to its calls, memory against NFE, and cost against batch, pixels and NFE. Needs the extra
`bench`; `make bench` runs it. Writes runs/bench/sampling.md and .json.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from timing import Sheet, clock, computes_bf16, interleaved, law, milliseconds, peak_mb, speed
from torch import Tensor, nn
from twins import B64, TINY, ours, theirs

from i2i_bridge.bridge.processes import I2SB
from i2i_bridge.bridge.targets import I2SBTarget
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.randomness import generator


class Timed(nn.Module):
    """A network, its calls and the seconds inside it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls, self.seconds = network, 0, 0.0

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        now = clock()
        began = now()
        output: Tensor = self.network(x_t, t, condition)
        self.seconds += now() - began
        self.calls += 1
        return output


def bridge(network: nn.Module) -> Bridge:
    return Bridge(network, I2SB(), I2SBTarget())


def walk(network: nn.Module, x_1: Tensor, nfe: int) -> None:
    with torch.inference_mode():
        for _ in bridge(network).trajectory({"x_1": x_1}, nfe=nfe, generator=generator(0, "benchmark")):
            pass


def main(rounds: int, side: int, tiny: bool) -> None:
    sheet = Sheet("sampling")
    config = TINY if tiny else B64
    mine = ours(config).eval().requires_grad_(False)
    yours = theirs(config, side, mine).eval().requires_grad_(False)
    x = torch.randn(4, 3, side, side, generator=generator(0, "benchmark"))
    x, t = x.to(memory_format=torch.channels_last), torch.tensor([0.1, 0.4, 0.7, 1.0])

    def call(network: nn.Module, x: Tensor) -> Tensor:
        with torch.inference_mode():
            output: Tensor = network(x, t[: len(x)])
        return output

    exact = call(yours.double(), x.double())
    yours.float()
    pairs = [("fp32", mine, yours), ("bf16", ours(config).eval().bfloat16(), theirs(config, side, mine).bfloat16())]
    rows, reference = [], None
    for precision, one, two in pairs:
        sides: dict[str, Callable[[], Tensor]] = {
            "ours": partial(call, one, x),
            # Nobody passes diffusers channels_last images; the twin gets what it is fastest with.
            "diffusers": partial(lambda network, x: call(network, x), two, x.contiguous().to(next(two.parameters()))),
        }
        if reference is not None:
            sides["diffusers fp32"] = reference
        reference = reference or sides["diffusers"]
        # Without bf16 in hardware a call takes ten times as long, and a few say so as well.
        seconds = interleaved(sides, rounds if precision == "fp32" or computes_bf16() else 3)
        off = sides["ours"]().double() - exact
        rows.append(
            {
                "weights": precision,
                "ours, ms": milliseconds(seconds["ours"]),
                "diffusers, ms": milliseconds(seconds["diffusers"]),
                "faster": speed(seconds, "ours", "diffusers"),
                "than fp32 diffusers": speed(seconds, "ours", "diffusers fp32" if len(sides) > 2 else "diffusers"),
                "largest error": off.abs().max().item(),
                "rms error, %": 100 * (off.norm() / exact.norm()).item(),
            }
        )
    sheet.table("one call, batch 4", rows)

    rows, now = [], clock()
    for nfe in (1, 5, 20):
        timed, shares = Timed(mine), []
        for _ in range(max(rounds // 3, 3)):
            timed.calls, timed.seconds = 0, 0.0
            began = now()
            walk(timed, x[:1], nfe)
            shares.append((now() - began) / timed.seconds - 1)
        rows.append(
            {"nfe": nfe, "network calls": timed.calls, "beside them, %": 100 * sorted(shares)[len(shares) // 2]}
        )
    sheet.table("the sampler, one image", rows)

    walk(mine, x, 1)
    before = peak_mb()
    walk(mine, x, 30)
    sheet.table("peak memory", [{"nfe 1, MB": before, "nfe 30 adds, MB": peak_mb() - before}])

    def images(count: int, edge: int) -> Tensor:
        return torch.zeros(count, 3, edge, edge).to(memory_format=torch.channels_last)

    few = max(rounds // 2, 3)
    counts, edges, calls = (2, 4, 8, 16), (side // 2, side, 3 * side // 2, 2 * side), (2, 4, 8, 16)
    t = torch.full((max(counts),), 0.5)
    # Attention grows with the square of the pixels.
    convolutions = ours(config | {"attention_factors": ()}).eval().requires_grad_(False)
    laws = [
        law("images in a batch", counts, [partial(call, mine, images(count, side)) for count in counts], few),
        law("pixels", [e * e for e in edges], [partial(call, mine, images(4, edge)) for edge in edges], few),
        law(
            "pixels, attention in the middle alone",
            [e * e for e in edges],
            [partial(call, convolutions, images(4, edge)) for edge in edges],
            few,
        ),
        law("nfe", calls, [partial(walk, mine, images(1, side), nfe) for nfe in calls], few),
    ]
    sheet.table("laws", laws)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tiny", action="store_true", help="a small network, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    main(options.rounds, 16 if options.tiny else 64, options.tiny)
