"""The model card of a run: README.md, with a YAML header for the Hugging Face Hub, made from the run's files."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from i2i_bridge import registry
from i2i_bridge.data.cards import load_card
from i2i_bridge.errors import UserError, located, of_kind, plural, readable
from i2i_bridge.evaluation.results import Evaluation, read_evaluation
from i2i_bridge.methods.latent import latent_of
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.recipe.schema import STUDENTS, LatentSettings
from i2i_bridge.report.formats import render, to_markdown
from i2i_bridge.report.table import single_table
from i2i_bridge.runs.checkpoint import chosen_checkpoint, latest_checkpoint
from i2i_bridge.runs.hub import Origin, check_name, push
from i2i_bridge.runs.run import Run
from i2i_bridge.runs.shared import PICTURE, portable, write_shared
from i2i_bridge.storage.reader import MEGABYTE, read_bytes, read_text
from i2i_bridge.storage.shipped import LATENT_FOLDER, recipe_of_run
from i2i_bridge.training.log import read_metrics

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,40}")
"""Identifiers of licences on the Hub, such as mit, apache-2.0, cc-by-4.0 or other."""
STATED = re.compile(r"^license:[ \t]*(?:\[|\r?\n[ \t]*-)?[ \t]*[\"']?[A-Za-z0-9]", re.MULTILINE)
"""The key of a card's header with an identifier or a list of them: no comment, no placeholder, not the next key."""
PNG = b"\x89PNG\r\n\x1a\n"


def model_card(run: Run, licence: str | None, *, place: str = "path/to/this/folder", pictures: bool = False) -> str:
    """The model card of a run: use, task, data, training cost, protocol-stamped results of its evaluations, limits.

    Args:
        licence: Identifier of the licence that others get the weights under; there is no default.
        place: The Hub's name or the folder that users will type.
        pictures: Show the picture of the run's samples, `PICTURE`.

    Raises:
        UserError: No licence, or not an identifier; or a file of the run is damaged.
    """
    if licence is None or not LICENCE.fullmatch(licence):
        found = "no licence given" if licence is None else f"licence '{licence}'"
        raise UserError(
            f"{found}: give the Hub's identifier of the licence for the weights (--licence, licence=), such as "
            "apache-2.0, mit, cc-by-4.0, cc-by-nc-4.0 or other"
        )
    recipe = portable(run.recipe)
    inpaints = recipe.degradation is not None and recipe.degradation.get("name") == "inpaint"
    inputs = ', mask="mask.png"' if inpaints else ""
    inputs += ', condition="condition.png"' if recipe.data.own_condition else ""
    return render(
        "card.md",
        licence=licence,
        task=recipe.task,
        method=recipe.method_label,
        name=recipe.name,
        summary=recipe.summary,
        place=place,
        inputs=inputs,
        nfe=recipe.sample.nfe,
        plugins=", ".join(_plugins(recipe)),
        facts=list(_facts(run, recipe)),
        training=list(_training(run, recipe)),
        results=[(found, to_markdown(single_table(found))) for found in _evaluations(run)],
        picture=PICTURE if pictures else "",
    )


def save_pretrained(
    run: Run,
    folder: str | Path,
    *,
    licence: str | None = None,
    card: str | Path | None = None,
    pictures: bool = False,
    place: str = "path/to/this/folder",
) -> Path:
    """Write a run for others: weights (EMA) as safetensors, the recipe as TOML, and the model card README.md.

    Nothing in the folder executes. `load_run(folder)` opens it like any run folder; restorations are the same bit for
    bit. Paths of this machine are cut from the recipe.

    Args:
        folder: A folder that does not exist or is empty.
        licence: The licence that others get the weights under, as the Hub calls it, such as "apache-2.0".
        card: A file with the model card, with `license:` in its YAML header, instead of a generated one.
        pictures: Add the picture of restored validation images that training wrote. Off by default: pictures show
            images of the dataset.
        place: What the card tells users to type.

    Returns:
        The folder.

    Raises:
        UserError: No licence is given, the folder holds something or cannot be written, the card has no licence, or
            the run's checkpoint is gone.
    """
    of_kind("run", run, Run, "a run, load_run(FOLDER)")
    if card is None:
        text = model_card(run, licence, place=place, pictures=pictures)
    else:
        with readable(card, errors=(OSError, ValueError)):
            text = read_text(card, MEGABYTE, "utf-8-sig")  # editors on Windows write a byte order mark
        header = re.match(r"---\r?\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
        if licence is not None or header is None or not STATED.search(header[1]):
            raise UserError(f"{card}: the licence stands in the card's header, between two lines ---, as license: mit")
    return write_shared(run, Path(folder), text, _picture(run) if pictures else None)


def push_to_hub(
    run: Run,
    name: str,
    *,
    licence: str | None = None,
    card: str | Path | None = None,
    pictures: bool = False,
    private: bool = False,
) -> Origin:
    """Upload a run to the Hugging Face Hub, as `save_pretrained` writes it, in one commit.

    The token is the library's: `hf auth login`, or the variable HF_TOKEN.

    Args:
        name: owner/name; the repository is created if missing, and an older run in it replaced.
        licence, card, pictures: As for `save_pretrained`.
        private: Whether a new repository is private.

    Returns:
        The repository and the commit.

    Raises:
        UserError: As `save_pretrained`; or offline mode, no package, not logged in, no permission, no connection.
    """
    of_kind("run", run, Run, "a run, load_run(FOLDER)")
    check_name(name)
    with tempfile.TemporaryDirectory(prefix="i2i-bridge-", ignore_cleanup_errors=True) as folder:
        written = save_pretrained(run, Path(folder, "run"), licence=licence, card=card, pictures=pictures, place=name)
        return push(written, name, private=private)


def _picture(run: Run) -> bytes:
    """The newest picture of samples that is not newer than the run's step."""
    files = sorted((run.folder / "samples").glob("step-*.png"))
    files = [file for file in files if file.stem <= f"step-{run.step:08d}" and not file.is_symlink()]
    if not files:
        raise UserError(f"{run.folder / 'samples'}: no picture of step {run.step} or before; leave out the pictures")
    with located(files[-1], "cannot be read", OSError):
        data = read_bytes(files[-1])
    if not data.startswith(PNG):
        raise UserError(f"{files[-1]}: not a PNG")
    return data


def _facts(run: Run, recipe: Recipe) -> Iterator[tuple[str, str]]:
    parameters = sum(parameter.numel() for parameter in run.method.network.parameters())
    yield "Task", recipe.task
    yield "Method", recipe.method_label
    if recipe.method["name"] in ("bridge", "shortcut", "cdsb", *STUDENTS):
        yield "Process", f"{_words(recipe.process)}; target {_words(recipe.target)}"
        yield "Sampler", f"{_words(recipe.sample.sampler)}, grid {recipe.sample.grid}"
    yield "Network", f"{recipe.network['name']}, {parameters:,} parameters"
    if recipe.mean is not None:
        yield "Two stages", f"starts from the answer of the run in mean/, {plural(recipe.mean.nfe, 'network call')}"
    if recipe.latent is not None:
        yield "Autoencoder", _autoencoder(run, recipe.latent)
    sides = " x ".join(map(str, recipe.data.sides))
    yield "Images", f"{plural(recipe.data.channels, 'channel')}, trained at {sides} pixels"


def _autoencoder(run: Run, settings: LatentSettings) -> str:
    """Name, size, and what it adds to each restoration."""
    latent = latent_of(run.method)
    module = None if latent is None else latent.autoencoder
    size = ""
    if isinstance(module, nn.Module):
        size = f", {sum(parameter.numel() for parameter in module.parameters()):,} parameters"
    return (
        f"'{settings.encoder['name']}'{size}: latents of {settings.channels} channels, sides divided by "
        f"{settings.factor}; an image is encoded and decoded once, beside the network calls"
    )


def _training_of_autoencoder(folder: Path) -> Iterator[tuple[str, str]]:
    recipe, checkpoint = portable(load_recipe(recipe_of_run(folder))), latest_checkpoint(folder / "checkpoints")[0]
    step = 0 if checkpoint is None else checkpoint.step
    yield "Autoencoder's data", _data(recipe)
    if step:  # otherwise imported: nothing is known about its training
        yield "Autoencoder's training", f"step {step:,}, {step * recipe.train.batch_size:,} images seen"


def _data(recipe: Recipe) -> str:
    if not recipe.data.card:
        return _words(recipe.data.source) or "not named"
    card = load_card(recipe.data.card)
    terms = f"licence: {card.licence or 'not stated'}"
    return f"{card.summary} (dataset card {card.name}; {terms}{'; ' if card.homepage else ''}{card.homepage})"


def _training(run: Run, recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield "Data", _data(recipe)
    if recipe.degradation is not None:
        yield "Degradation of the clean images", _words(recipe.degradation)
    if recipe.train.init:
        yield "Started from", recipe.train.init
    if recipe.latent is not None and recipe.latent.encoder["name"] == "run":
        yield from _training_of_autoencoder(run.folder / LATENT_FOLDER)
    yield "Weights", f"moving average (EMA) after step {run.step:,} of {recipe.train.steps:,}"
    if not run.step:
        return  # imported: nothing is known about its training
    samples = run.step * recipe.train.batch_size
    yield "Images seen", f"{samples:,} (batches of {recipe.train.batch_size})"
    state = chosen_checkpoint(run.folder / "checkpoints", run.step)[0]
    machine = None if state is None else state.state.get("machine")
    if isinstance(machine, dict):
        yield "Training images", str(machine.get("images", "unknown"))
        count = machine.get("processes", "1")
        processes = f"{count} process" if str(count) == "1" else f"{count} processes"
        yield "Machine", f"{machine.get('device', 'unknown')}, {processes}"
    seconds = _seconds(run)
    if seconds is not None:
        yield "Time of the steps", f"{seconds:,.0f} s ({seconds / 3600:.2g} h)"


def _seconds(run: Run) -> float | None:
    """Seconds of the logged training steps up to the run's; None without a log, or if it has a gap."""
    total, before = 0.0, 0
    for row in read_metrics(run.folder):
        step, rate = row["step"], row.get("steps_per_second")
        if before < step <= run.step:
            if not isinstance(rate, int | float) or not 0 < rate < 1e9:
                return None
            total, before = total + (step - before) / rate, step
    return total if before else None


def _evaluations(run: Run) -> list[Evaluation]:
    """The evaluations of the run's step, by the names of their protocols."""
    names = sorted(file.parent.name for file in (run.folder / "evaluation").glob("*/evaluation.json"))
    found = [read_evaluation(run.folder, name) for name in names]
    return [evaluation for evaluation in found if evaluation.step == run.step]


def _plugins(recipe: Recipe) -> list[str]:
    """Parts of a recipe that are not of this package."""
    tables = {
        "processes": recipe.process, "targets": recipe.target, "networks": recipe.network, "methods": recipe.method,
        "samplers": recipe.sample.sampler, "guidances": recipe.sample.guidance, "degradations": recipe.degradation,
        "grids": {"name": recipe.sample.grid}, "autoencoders": recipe.latent and recipe.latent.encoder,
    }  # fmt: skip
    return [
        f"{registry.KINDS[kind].kind} '{table['name']}'"
        for kind, table in tables.items()
        if table and not registry.KINDS[kind].get(str(table["name"])).__module__.startswith("i2i_bridge.")
    ]


def _words(table: dict[str, object]) -> str:
    """A part as text: its name, and its options as JSON."""
    options = {key: value for key, value in table.items() if key != "name"}
    return f"{table.get('name', '')} {json.dumps(options) if options else ''}".strip()
