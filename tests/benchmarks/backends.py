"""A network call by each backend of `load_run`: `python tests/benchmarks/backends.py`.

B64 (4.474 M parameters), one thread (--threads), fp32 and bf16, at several batches and sizes: seconds until the first
result, how far the output is from float64, ms a call, and how many calls pay for the start. Needs the extra `openvino`;
`--compile` adds torch.compile, which takes minutes on a CPU. Writes runs/bench/backends.md and .json.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial

import torch
from timing import Sheet, clock, interleaved, milliseconds, speed
from torch import Tensor, nn
from twins import B64, TINY, ours

from i2i_bridge.randomness import generator
from i2i_bridge.runs.backend import set_backend


def call(network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    with torch.inference_mode():
        output: Tensor = network(x, t)
    return output


def main(rounds: int, side: int, tiny: bool, compiled: bool) -> None:
    sheet, now = Sheet("backends"), clock()
    plain = ours(TINY if tiny else B64).eval().requires_grad_(False)
    exact = copy.deepcopy(plain).double()
    networks, starts = {}, {}
    smallest = torch.zeros(1, 3, 2 * plain.stride, 2 * plain.stride), torch.ones(1, dtype=torch.float64)
    for backend in ("eager", "openvino", *(["compile"] if compiled else [])):
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            network = copy.deepcopy(plain).to(dtype)
            began = now()
            reason = set_backend(network, backend)
            call(network, *smallest)
            starts[f"{backend}, {name}"] = now() - began
            if reason is None:
                networks[f"{backend}, {name}"] = network
            else:
                print(f"{backend}, {name}: {reason}")
    for batch, edge in ((4, side), (1, side), (4, 3 * side // 2), (1, 4 * side)):
        x = torch.randn(batch, 3, edge, edge, generator=generator(0, "benchmark"))
        x, t = x.to(memory_format=torch.channels_last), torch.linspace(0.1, 1, batch, dtype=torch.float64)
        wanted = call(exact, x.double(), t)
        sides: dict[str, Callable[[], Tensor]] = {
            name: partial(call, network, x, t) for name, network in networks.items()
        }
        errors = {name: (act().double() - wanted).norm() / wanted.norm() for name, act in sides.items()}
        seconds = interleaved(sides, rounds)
        rows = []
        for name in sides:
            base = f"eager, {name.split(', ')[1]}"
            saved = (milliseconds(seconds[base]) - milliseconds(seconds[name])) / 1e3
            rows.append(
                {
                    "backend": name,
                    "start, s": starts[name],
                    "ms": milliseconds(seconds[name]),
                    "x eager fp32": speed(seconds, name, "eager, fp32"),
                    "x eager": speed(seconds, name, base),
                    "rms off, %": 100 * errors[name].item(),
                    "calls that pay for the start": starts[name] / saved if saved > 0 else "never",
                }
            )
        sheet.table(f"batch {batch}, {edge} x {edge}", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tiny", action="store_true", help="a small network, to see that it runs")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    main(options.rounds, 16 if options.tiny else 64, options.tiny, options.compile)
