"""Run folders opened for restoring: weights, [mean], [latent], and tuned settings, each checked."""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from i2i_bridge.device import resolve_device, resolve_precision
from i2i_bridge.errors import UserError, listed
from i2i_bridge.methods.base import Method
from i2i_bridge.methods.factory import build_method, resampled
from i2i_bridge.methods.mean import Mean, check_mean
from i2i_bridge.networks.weights import load_weights
from i2i_bridge.runs.backend import resolve_backend, set_backend
from i2i_bridge.runs.checkpoint import passed_over, read_checkpoint
from i2i_bridge.runs.latent import check_sha256, load_latent
from i2i_bridge.runs.run import Run
from i2i_bridge.storage.files import refuse_links
from i2i_bridge.storage.names import expanded
from i2i_bridge.storage.shipped import (
    MEAN_FOLDER,
    RECIPE_FILE,
    TEACHER_FOLDER,
    TUNED_FILE,
    folder_of_run,
    recipe_of_run,
)

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.recipe import Recipe
    from i2i_bridge.recipe.schema import MeanSettings, TeacherSettings


def load_run(
    folder: str | Path,
    *,
    device: str | torch.device | None = None,
    sample: Iterable[str] = (),
    precision: str = "fp32",
    checkpoint: int | str = "last",
    report: Callable[[str], None] | None = None,
    tuned: bool = True,
    backend: str = "eager",
) -> Run:
    """Open a run folder for restoring.

    Args:
        folder: The folder that `train` wrote, the name of a shipped run, 'pretrained/photos', or a run on the Hugging
            Face Hub, 'owner/name' or 'owner/name@REVISION', which is fetched once and then read from the local copy.
        device: By default CUDA if available, else the CPU.
        sample: Changed settings of [sample], such as "sample.guidance.name=ddnm". With any other than sample.nfe, those
            of tuned.toml do not apply.
        precision: Precision of weights and activations: fp32, bf16 (half the memory, a few per cent off), or auto: bf16
            if the device supports it natively.
        checkpoint: A step that was kept, "last", or "best" by the metric of train.keep_best.
        report: Receives a line for each newer checkpoint that is damaged and skipped; by default a Python warning.
        tuned: Whether the settings of tuned.toml, which `tune` wrote, apply at their numbers of network calls.
        backend: What computes the network: "eager", torch as it is; "compile", torch.compile by blocks, for each size
            of images anew; "openvino", U-Nets on a CPU, the same to 1e-4 in fp32; "auto", openvino where it was
            measured to pay, else eager. Where a backend cannot, a line says why and torch computes.

    Raises:
        UserError: The folder is missing or holds no whole checkpoint, the named one is not kept or is damaged, there
            is no such device, or a setting (also of tuned.toml) is wrong or would need another training; or a run on
            the Hub cannot be fetched.
    """
    from i2i_bridge.recipe.load import load_recipe
    from i2i_bridge.runs.tuned import read_tuned, tuned_recipes

    folder, changes = folder_of_run(expanded(folder)), listed("sample", sample)
    if not folder.exists():
        from i2i_bridge.runs.hub import hub_folder

        folder = hub_folder(folder, report)
    for change in changes:
        if not change.startswith("sample."):
            raise UserError(
                f"'{change}': a trained run takes other settings of [sample] only, such as sample.clip=true"
            )
    recipe = load_recipe(recipe_of_run(folder), changes)
    saved, skipped, weights = read_checkpoint(folder, lambda saved: saved.tensors("ema"), checkpoint)
    lines = [f"{passed_over(line)}; step {saved.step} is taken" for line in skipped]
    found = read_tuned(folder) if tuned and all(change.startswith("sample.nfe=") for change in changes) else None
    if found is not None and found.step != saved.step:
        lines.append(
            f"{folder / TUNED_FILE}: found for step {found.step} and not used for step {saved.step}; run `i2i-bridge "
            "tune` once more"
        )
        found = None
    say = partial(warnings.warn, stacklevel=2) if report is None else report
    for line in lines:
        say(line)
    resolved = resolve_device(device)
    dtype = resolve_precision(precision, resolved)
    backend = resolve_backend(backend, resolved, dtype)
    network = recipe.build_network()
    load_weights(network, weights, str(saved.folder))
    network = network.to(resolved, dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    mean = None if recipe.mean is None else load_mean(folder, recipe, device=resolved, precision=precision)
    latent = None if recipe.latent is None else load_latent(folder, recipe, device=resolved)
    recipes = {} if found is None else tuned_recipes(recipe, found, folder)
    method = build_method(recipe, network, mean, latent)
    methods = {nfe: resampled(method, each) for nfe, each in recipes.items()}
    backend, reasons = _with_backend(backend, method, mean)
    for reason in reasons:
        say(reason)
    options = {"sample": changes, "precision": precision, "tuned": tuned, "backend": backend}
    return Run(folder, recipe, method, saved.step, resolved, tuple(lines), found, methods, backend, options)


def _with_backend(backend: str, method: Method, mean: Mean | None) -> tuple[str, list[str]]:
    """Set what computes a method's networks.

    Returns:
        The backend, "eager" if it can compute none of them, and a line for each reason why torch computes one.
    """
    reasons = [set_backend(method.network, backend, getattr(method, "guidance", None))]
    if mean is not None:
        reasons.append(set_backend(mean.method.network, backend))
    lines = [
        f"backend {backend}: {reason}; torch computes the network" for reason in dict.fromkeys(filter(None, reasons))
    ]
    return backend if None in reasons else "eager", lines


def load_mean(folder: Path, recipe: "Recipe", *, device: torch.device, precision: str = "fp32") -> Mean:
    """Load a run folder's copy of the run of [mean]; the folder of `mean.run` is not read.

    Raises:
        UserError: The copy is missing, damaged, a link, or not the run that was trained with.
    """
    if recipe.mean is None:
        raise UserError(f"{folder}: its recipe has no [mean]")
    run = _load_copy(folder, MEAN_FOLDER, recipe.mean, "starts from", device)
    check_mean(recipe, run.recipe, str(run.folder))
    run.method.network.to(resolve_precision(precision, device))
    return Mean(run.method, recipe.mean.nfe)


def load_teacher(folder: Path, recipe: "Recipe", *, device: torch.device) -> nn.Module:
    """Load the network of a run folder's copy of the run of [teacher]; the folder of `teacher.run` is not read.

    Raises:
        UserError: The copy is missing, damaged, a link, or not the run that was trained with.
    """
    if recipe.teacher is None:
        raise UserError(f"{folder}: its recipe has no [teacher]")
    return _load_copy(folder, TEACHER_FOLDER, recipe.teacher, "learns from", device).method.network


def _load_copy(
    folder: Path, name: str, settings: "MeanSettings | TeacherSettings", use: str, device: torch.device
) -> Run:
    """Load the copy of another run that a run folder holds under a name."""
    copy = folder / name
    refuse_links(folder, [name])
    if not (copy / RECIPE_FILE).is_file():
        raise UserError(f"{copy}: the copy of {settings.run}, which this run {use}, is missing; put it back")
    run = load_run(copy, device=device)
    check_sha256(run.method.network, settings.sha256, copy)
    return run
