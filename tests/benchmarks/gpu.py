"""The paper's network on a GPU: `python tests/benchmarks/gpu.py`; `--dry-run` takes a tiny one on the CPU.

ADM 256 x 256 (552.8 M parameters, 2.24 TFLOP a forward pass): bf16, channels_last, fused attention, fused AdamW,
foreach EMA; training eager and with its blocks recomputed, sampling eager, by compiled blocks and as a CUDA graph,
beside diffusers' UNet2DModel of the same configuration in the same run. MFU counts the network's own FLOPs (recomputed
ones not) over the peak that --peak-tflops names: 790 dense bf16 were measured on an H200. A case that does not fit into
memory says so. Writes runs/bench/gpu.md and .json.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from timing import Row, Sheet
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode
from twins import ADM256, TINY, Diffusers

from i2i_bridge.device import compile_blocks
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


def compiled(network: UNet) -> UNet:
    """As `train.compile` has it."""
    compile_blocks(network, next(network.parameters()).device)
    return network


def main(dry: bool, rounds: int, peak: float, batches: list[int]) -> None:
    sheet = Sheet("gpu")
    device = torch.device("cpu" if dry else "cuda")
    bench = Bench(device, TINY, 16, 2, peak) if dry else Bench(device, ADM256, 256, rounds, peak)
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
    rows = []
    for batch in (1, 16) if not dry else (1, 2):
        rows.append(bench.row("ours", batch, 1, lambda: bench.sampling(bench.ours(), batch)))  # noqa: B023
        if not dry:
            rows += [
                bench.row("ours, compiled", batch, 1, lambda: bench.sampling(compiled(bench.ours()), batch)),  # noqa: B023
                bench.row("ours, CUDA graph", batch, 1, lambda: bench.sampling(bench.ours(), batch, graph=True)),  # noqa: B023
            ]
        rows.append(bench.row("diffusers", batch, 1, lambda: bench.sampling(bench.diffusers(), batch)))  # noqa: B023
        sheet.table("sampling, ms per NFE of a batch", rows)
    rows = []
    for batch in batches if not dry else [2]:
        rows += [
            bench.row("ours", batch, 3, lambda: bench.training(bench.ours(), batch)),  # noqa: B023
            bench.row("ours, checkpointing", batch, 3, lambda: bench.training(bench.ours(checkpointing=True), batch)),  # noqa: B023
        ]
        if not dry:
            rows.append(bench.row("ours, compiled", batch, 3, lambda: bench.training(compiled(bench.ours()), batch)))  # noqa: B023
        rows.append(bench.row("diffusers", batch, 3, lambda: bench.training(bench.diffusers(), batch)))  # noqa: B023
        sheet.table("training", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry-run", action="store_true", help="a tiny network on the CPU, to see that it runs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak-tflops", type=float, default=790.0, help="dense bf16 of the device")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32], help="of training")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device here; --dry-run takes a tiny network on the CPU")
    main(options.dry_run, options.rounds, options.peak_tflops, options.batches)
