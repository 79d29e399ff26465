"""The paper's network on a GPU: `python tests/benchmarks/gpu.py`; `--dry-run` takes a tiny one on the CPU.

ADM 256 x 256 (552.8 M parameters, 2.24 TFLOP a forward pass): bf16, channels_last, fused attention, fused AdamW,
foreach EMA; training eager and with its blocks recomputed, sampling eager and as a CUDA graph, both by compiled blocks,
beside diffusers' UNet2DModel of the same configuration in either layout; and the training of a small network. "torch's
norms" leaves out the kernels of networks/triton.py. MFU counts the network's own FLOPs (recomputed ones not) over the
peak that --peak-tflops names: 790 dense bf16 were measured on an H200. Each row is the median of --rounds; the machine
should do nothing else. A case that does not fit into memory says so. Compiled cases, which take longest to start, come
last; --minutes or Ctrl-C leaves out what is left. Writes runs/bench/gpu.md and .json.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timing import Row, Sheet
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode
from twins import ADM256, B64, TINY, Diffusers

from i2i_bridge.device import compile_blocks
from i2i_bridge.networks import normalisation
from i2i_bridge.networks.unet import UNet


def flops(config: dict[str, Any], side: int) -> float:
    """Of one image's forward pass, counted on shapes alone."""
    with torch.device("meta"):
        network, x, t = UNet(**config), torch.zeros(1, 3, side, side), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:
        network(x, t)
    return float(counter.get_total_flops())


class Bench:
    """A device, a network's configuration and the rules of timing."""

    def __init__(self, device: torch.device, config: dict[str, Any], side: int, rounds: int, peak: float) -> None:
        self.device, self.config, self.side, self.rounds, self.peak = device, config, side, rounds, peak
        self.flops = flops(config, side)
        # A CPU mostly emulates bfloat16, ten times as slow.
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def ours(self, **options: Any) -> UNet:
        with self.device:
            network = UNet(**self.config, **options)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def diffusers(self) -> Diffusers:
        with self.device:
            return Diffusers(self.config, self.side)

    def images(self, batch: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        x = torch.randn(batch, 3, self.side, self.side, device=self.device, dtype=dtype)
        return x.to(memory_format=torch.channels_last), torch.rand(batch, device=self.device)

    def row(self, case: str, batch: int, passes: float, make: Callable[[], Callable[[], Any]]) -> Row:
        """Median time of what `make` returns; `passes` forward passes' worth of FLOPs an image."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        row: Row = {"case": case, "batch": batch}
        try:
            began = time.perf_counter()
            act = make()
            for _ in range(3):
                act()
            self.synchronise()
            row["first 3 calls, s"] = time.perf_counter() - began
            seconds = []
            for _ in range(self.rounds):
                began = time.perf_counter()
                act()
                self.synchronise()
                seconds.append(time.perf_counter() - began)
        except torch.OutOfMemoryError:
            return row | {"first 3 calls, s": "out of memory", "ms": "", "images/s": "", "MFU, %": "", "peak GB": ""}
        taken = statistics.median(seconds)
        memory = torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else float("nan")
        mfu = 100 * passes * self.flops * batch / taken / (self.peak * 1e12)
        return row | {"ms": taken * 1e3, "images/s": batch / taken, "MFU, %": mfu, "peak GB": memory}

    def training(self, network: nn.Module, batch: int) -> Callable[[], None]:
        """Forward by bf16 autocast, loss, backward, fused AdamW, moving average."""
        network.train()
        x, t = self.images(batch)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        kept = [parameter.detach().clone() for parameter in network.parameters()]
        merge = get_ema_multi_avg_fn(0.99)  # type: ignore[no-untyped-call]

        def step() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                loss = (network(x, t).float() - x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                merge(kept, list(network.parameters()), 1)

        return step

    def sampling(self, network: nn.Module, batch: int, *, graph: bool = False) -> Callable[[], Any]:
        """A network call of bf16 weights; with `graph`, replayed as a CUDA graph."""
        network.eval().requires_grad_(False).to(self.dtype)
        x, t = self.images(batch, self.dtype)

        def call() -> Tensor:
            with torch.inference_mode():
                output: Tensor = network(x, t)
            return output

        if not graph:
            return call
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            call()
        return recorded.replay


@contextmanager
def torchs_norms() -> Iterator[None]:
    """Without the kernels of Triton."""
    kernels = normalisation.triton_kernels
    normalisation.triton_kernels = lambda device: None  # type: ignore[assignment]
    try:
        yield
    finally:
        normalisation.triton_kernels = kernels


@contextmanager
def tried_algorithms() -> Iterator[None]:
    """With cuDNN's algorithms chosen by trial."""
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


@dataclass(frozen=True)
class Case:
    """What is timed: calls of a network, or training steps."""

    bench: Bench
    name: str
    batch: int
    network: Callable[[], nn.Module]
    training: bool = False
    graph: bool = False
    context: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def table(self) -> str:
        what = "training" if self.training else "sampling, ms per NFE of a batch"
        return f"{self.bench.side} x {self.bench.side}, {what}"

    def row(self) -> Row:
        with self.context():
            return self.bench.row(self.name, self.batch, 3 if self.training else 1, self.act)

    def act(self) -> Callable[[], Any]:
        if self.training:
            return self.bench.training(self.network(), self.batch)
        return self.bench.sampling(self.network(), self.batch, graph=self.graph)


def cases(bench: Bench, small: Bench, batches: Sequence[int], *, cuda: bool) -> list[Case]:
    """All cases; those that are worth most come first."""
    few, many, crowd = (1, 16, 256) if cuda else (1, 2, 3)
    ours, theirs = bench.ours, bench.diffusers

    def compiled() -> UNet:
        """As `train.compile` has it."""
        network = bench.ours()
        compile_blocks(network, bench.device)
        return network

    def theirs_last() -> nn.Module:
        return bench.diffusers().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    found = []
    for batch, training in ((many, False), *((batch, True) for batch in batches), (few, False)):
        found += [
            Case(bench, "ours", batch, ours, training),
            Case(bench, "ours, torch's norms", batch, ours, training, context=torchs_norms),
            Case(bench, "ours, cuDNN by trial", batch, ours, training, context=tried_algorithms),
            Case(bench, "diffusers", batch, theirs, training),
            Case(bench, "diffusers, channels_last", batch, theirs_last, training),
        ]
        if training:
            found.append(Case(bench, "ours, checkpointing", batch, partial(ours, checkpointing=True), True))
        elif cuda:
            found.append(Case(bench, "ours, CUDA graph", batch, ours, graph=True))
    found += [
        Case(small, "ours", crowd, small.ours, True),
        Case(small, "ours, torch's norms", crowd, small.ours, True, context=torchs_norms),
        Case(small, "diffusers", crowd, small.diffusers, True),
    ]
    if cuda:
        found.append(Case(bench, "ours, compiled", many, compiled))
        found.append(Case(bench, "ours, compiled", batches[0], compiled, True))
        found.append(Case(bench, "ours, compiled", few, compiled))
    return found


def main(dry: bool, rounds: int, peak: float, batches: list[int], minutes: float) -> None:
    end = time.monotonic() + 60 * minutes
    sheet = Sheet("gpu")
    device = torch.device("cpu" if dry else "cuda")
    if dry:
        bench, small = Bench(device, TINY, 16, 2, peak), Bench(device, TINY, 8, 2, peak)
    else:
        bench, small = Bench(device, ADM256, 256, rounds, peak), Bench(device, B64, 64, rounds, peak)
    sheet.table(
        "network",
        [
            {
                "device": torch.cuda.get_device_name() if not dry else "cpu, dry run: the figures mean nothing",
                "parameters, M": sum(p.numel() for p in bench.ours().parameters()) / 1e6,
                "GFLOP forward": bench.flops / 1e9,
            }
        ],
    )
    tables: dict[str, list[Row]] = {}
    try:
        for case in cases(bench, small, batches if not dry else [2], cuda=not dry):
            if time.monotonic() > end:
                break
            row = case.row()
            tables.setdefault(case.table, []).append(row)
            print(f"{case.table}: {row}", flush=True)
    except KeyboardInterrupt:
        print("ended early")
    finally:
        for title, rows in tables.items():
            sheet.table(title, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry-run", action="store_true", help="a tiny network on the CPU, to see that it runs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak-tflops", type=float, default=790.0, help="dense bf16 of the device")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 8], help="of training")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no case begins")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device here; --dry-run takes a tiny network on the CPU")
    main(options.dry_run, options.rounds, options.peak_tflops, options.batches, options.minutes)
