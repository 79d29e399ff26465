"""Export of a run as graphs that other programs execute: ONNX, torch.export or OpenVINO.

OUT/  export.json  network.onnx  [mean.onnx]  [encoder.onnx  decoder.onnx]  restore-1.onnx  [restore-N.onnx]
      weights.bin
"""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from i2i_bridge import __version__
from i2i_bridge.errors import UserError, did_you_mean, located, of_kind, unwritable
from i2i_bridge.methods.calls import checked_nfe
from i2i_bridge.methods.geometry import method_geometry
from i2i_bridge.methods.latent import STD, latent_of
from i2i_bridge.methods.mean import mean_of
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.runs.batch import image_facts
from i2i_bridge.runs.graphs import DECODER, ENCODER, FILES, Decoder, Encoder, GraphNetwork, Tracer
from i2i_bridge.runs.plan import Stage, plan_of
from i2i_bridge.runs.run import Run
from i2i_bridge.runs.shared import portable
from i2i_bridge.storage.files import (
    TEMPORARY,
    TEMPORARY_BYTES,
    check_writable,
    exchange_folder,
    publish_folder,
    real_folder,
    remove,
)
from i2i_bridge.storage.names import expanded, extended_name
from i2i_bridge.storage.reader import read_text

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}
PACKAGES = {"onnx": ("onnx", "onnxscript"), "torch": (), "openvino": ("onnx", "onnxscript", "openvino")}
EXTRAS = {"onnx": "export", "openvino": "openvino"}
MOST_CALLS = 8
"""Maximum number of network calls in one graph; each call is a copy of the network's operations."""
ABOUT = "export.json"
KIND = "i2i-bridge export"
"""Value of "kind" in export.json by which an older export is recognised."""


def export(
    run: Run,
    out: str | Path,
    *,
    format: str = "onnx",
    nfe: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write a run's networks and restorations as graphs with dynamic batch, height and width, in float32.

    `export.json` has the weights of every step (`runs.plan`) for 1 and `nfe` network calls. `network` is the network
    alone, for any number of calls; `restore-1` and, up to 8 calls, `restore-N` are whole restorations X_1 -> X_0, whose
    noise is an input. docs/export.md shows how to run them without torch. With [latent] encoder and decoder are parts
    of the restorations, and graphs beside the network.

    Args:
        out: A folder; an older export in it is replaced.
        format: "onnx", "torch" (torch.export, .pt2: `torch.export.load` unpickles, so load only files that you trust)
            or "openvino".
        nfe: Network calls per image, 1 to 1000; by default the recipe's, and 1 for methods of one call.
        say: Called with a line on tuned sampling, one on calls without a graph, and one before each graph.

    Returns:
        The files.

    Raises:
        UserError: A package is missing, the format or nfe is unknown, `out` holds other files, the run has a guidance,
            dropout in sampling or another method, or the network or the autoencoder cannot be copied or traced.
    """
    of_kind("run", run, Run, "a run, load_run(FOLDER)")
    if format not in SUFFIXES:
        raise UserError(f"format '{format}' is unknown{did_you_mean(format, SUFFIXES)}")
    if run.recipe.data.direction == "both":
        raise UserError(
            f"recipe '{run.recipe.name}' learns both directions; only runs of one direction can be exported"
        )
    missing = [package for package in PACKAGES[format] if find_spec(package) is None]
    if missing:
        raise UserError(f"export to {format} needs {' and '.join(missing)}: pip install 'i2i-bridge[{EXTRAS[format]}]'")
    # Otherwise a link would be replaced, and not the folder that it leads to.
    shown, out = Path(out), real_folder(expanded(Path(out)), above=True)
    with located(shown, errors=OSError):
        _check_out(out)
    check_writable(out.parent)
    restorations = _restorations(run, nfe)
    for n, _ in restorations:
        if (line := run.tuned_line(n)) is not None:
            say(line)
        if n > MOST_CALLS:
            say(f"note: no graph of {n} calls, {MOST_CALLS} at most; {ABOUT} has their steps, docs/export.md runs them")
    networks = _graph_networks(run, restorations)
    inputs = _inputs(run)
    names = {name: f"{name}{SUFFIXES[format]}" for name in networks}
    graphs = {n: f"restore-{n}{SUFFIXES[format]}" for n, _ in restorations if n <= MOST_CALLS}
    about = _about(run, format, restorations, inputs, names, graphs)
    trace = Tracer(run, networks, inputs, say)
    plans = [stages for n, stages in restorations if n in graphs]
    files = FILES[format](trace, list(names.values()), plans, list(graphs.values()))
    about["files"] = [name for name, _ in files]
    files.append((ABOUT, json.dumps(about, indent=1, default=str).encode()))
    _write(out, files)
    return [shown / name for name, _ in reversed(files)]


def _graph_networks(run: Run, restorations: list[tuple[int, list[Stage]]]) -> dict[str, nn.Module]:
    """Copies of the run's networks, and of its autoencoder, for tracing, by name."""
    networks = {"network": run.method.network}
    if (mean := mean_of(run.method)) is not None:
        networks["mean"] = mean.method.network
    copies: dict[str, nn.Module] = {}
    for name, network in networks.items():
        (condition,) = {stage.condition for _, stages in restorations for stage in stages if stage.network == name}
        copies[name] = GraphNetwork(_plain(network, name), condition)
    if (latent := latent_of(run.method)) is not None:
        latent = replace(latent, autoencoder=_plain(latent.autoencoder, "autoencoder"), cache=None)
        copies |= {ENCODER: Encoder(latent), DECODER: Decoder(latent)}
    return copies


def _plain(network: Any, name: str) -> Any:
    """A copy of a module on the CPU, in float32 and contiguous: kernels for channels_last are no operations of a graph.

    An autoencoder that is no module is taken as it is.
    """
    if not isinstance(network, nn.Module):
        return network
    try:
        plain = copy.deepcopy(network)
    except TypeError as error:  # an attribute that is no data, such as a lock or another program's session
        raise UserError(f"{name}: {type(network).__name__} cannot be copied, and so not exported ({error})") from error
    plain = plain.to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    return plain.eval().requires_grad_(False)


def _about(
    run: Run,
    format: str,
    restorations: list[tuple[int, list[Stage]]],
    inputs: dict[str, int],
    networks: dict[str, str],
    graphs: dict[int, str],
) -> dict[str, Any]:
    """The table of export.json, without the names of the files."""
    recipe = portable(run.recipe)  # an export is made to be passed on
    latent, channels, factor = latent_of(run.method), recipe.data.channels, 1
    if latent is not None:
        channels, factor = latent.autoencoder.channels, latent.autoencoder.factor
    return {
        "kind": KIND, "version": 1, "i2i_bridge": __version__, "format": format,
        "recipe": recipe.name, "step": run.step, "method": recipe.method,
        "process": recipe.process, "sampler": recipe.sample.sampler,
        "grid": recipe.sample.grid, "degradation": recipe.degradation,
        **image_facts(run.recipe),
        "inputs": {"x_1": run.recipe.data.channels} | inputs,
        **dict(zip(("stride", "smallest_side"), method_geometry(run.method), strict=True)),
        "networks": networks,
        "state": {"channels": channels, "factor": factor},
        "latent": latent and {"std": STD, "shift": latent.shift, "scale": latent.scale},
        "restorations": [
            {"nfe": n, "graph": graphs.get(n), "draws": sum(stage.draws for stage in stages),
             "stages": [asdict(stage) for stage in stages]}
            | ({"tuned": line} if (line := run.tuned_line(n)) is not None else {})
            for n, stages in restorations
        ],
    }  # fmt: skip


def _restorations(run: Run, nfe: int | None) -> list[tuple[int, list[Stage]]]:
    """The plans for 1 and for nfe calls."""
    calls = run.recipe.sample.nfe if nfe is None else checked_nfe(nfe)
    try:
        with plugin_errors():
            plans = {n: plan_of(run.method_at(n), n) for n in dict.fromkeys((1, calls))}
    except ValueError as error:
        raise UserError(f"recipe '{run.recipe.name}': {error}") from error
    if calls > 1 and len(plans[calls][-1].calls) == 1:
        if nfe is not None:
            raise UserError(f"nfe {nfe}: method '{run.recipe.method['name']}' answers in one call; leave --nfe out")
        del plans[calls]
    return list(plans.items())


def _inputs(run: Run) -> dict[str, int]:
    """Channels of mask and condition, where the run has them."""
    degradation = run.recipe.build_degradation()
    inputs = {"mask": 1} if degradation is not None and degradation.masked else {}
    given = run.recipe.data.own_condition or (degradation is not None and degradation.condition_channels > 0)
    return inputs | ({"condition": run.recipe.condition_channels} if given else {})


def _check_out(out: Path) -> None:
    """Check that a folder is missing, empty, or holds an older export alone.

    Raises:
        UserError: It holds other files, which would be lost.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; give a folder")
    try:
        about = json.loads(read_text(out / ABOUT)) if (out / ABOUT).is_file() else {}
        files = {ABOUT, *about["files"]} if about.get("kind") == KIND else set()
    except (UserError, ValueError, TypeError, KeyError, AttributeError):
        files = set()
    others = sorted({entry.name for entry in out.iterdir()} - files)
    if others:
        raise UserError(f"{out}: holds other files than an export ({others[0]}); give another folder")


def _write(out: Path, files: list[tuple[str, bytes]]) -> None:
    fresh = out.with_name(extended_name(out.name, TEMPORARY, f"-{os.getpid()}-new", limit=TEMPORARY_BYTES))
    try:
        if not out.exists():
            publish_folder(out, files)
            return
        try:
            publish_folder(fresh, files)
            _check_out(out)  # again: tracing takes minutes
            exchange_folder(fresh, out)
        finally:
            remove(fresh)
    except OSError as error:
        raise unwritable(out, error) from error
