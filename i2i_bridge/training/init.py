"""Initial weights of a new run, from another run or a file (`train.init`, `train --init SOURCE`, `train --from RUN`).

The source is read at step 0 only. A resumed run loads its own checkpoint and does not open the source.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from i2i_bridge.errors import UserError, brief, located, plural
from i2i_bridge.networks.weights import load_weights
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import NETWORKS
from i2i_bridge.runs.checkpoint import Checkpoint, passed_over, read_checkpoint
from i2i_bridge.runs.hub import Origin, hub_folder, is_hub_name, local_copy, read_origin
from i2i_bridge.runs.imports import PREFIX
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.names import expanded
from i2i_bridge.storage.reader import file_sha256
from i2i_bridge.storage.shipped import (
    LATENT_FOLDER,
    MEAN_FOLDER,
    RECIPE_FILE,
    TEACHER_FOLDER,
    folder_of_run,
    is_shipped_run,
    recipe_of_run,
)
from i2i_bridge.storage.tensors import read_pt, read_safetensors
from i2i_bridge.training.state import NETWORK, TrainState

INIT_FILE = "init.json"
"""File of a run folder that describes its initial weights."""
WEIGHTS = (".safetensors", ".pt", ".pth")
"""Suffixes of weight files that `train.init` accepts."""
NO_SHAPES = ("condition_channels", "dropout", "checkpointing")
"""Options in which the source's network may differ: `fit` adapts the weights, or no shape depends on the option."""
FRESH = "starts fresh"
Weights = tuple[Path, str, dict[str, Tensor]]
"""A file of weights, its SHA-256 and its tensors."""
ROWS = 12
"""Number of differences that are printed; init.json has all of them."""


@dataclass(frozen=True)
class Difference:
    """A tensor that differs in shape or presence between the source and the network.

    Args:
        tensor: Name of the tensor.
        source: Shape in the source; None if the source has no such tensor.
        network: Shape in the network; None if the network has no such tensor.
        action: How the tensor was handled.
    """

    tensor: str
    source: tuple[int, ...] | None
    network: tuple[int, ...] | None
    action: str


def fit(
    stored: Mapping[str, Tensor], network: nn.Module, channels: int, condition_channels: int, *, added: str = "zero"
) -> tuple[dict[str, Tensor], list[Difference]]:
    r"""Adapt the tensors of a source to a network, as far as they fit.

        W'[:, :k] = W,  W'[:, k:] = 0      input channels added for a condition
        W' = W[:C],     b' = b[:C]         more output channels than the network's C

    At step 0 the network then computes what the source computes, for every condition. With `added` "random" it does
    not: W'[:, k:] keeps the network's random initial values. So does every other tensor of another shape or type.

    Args:
        stored: Tensors of the source, by name.
        network: The network to initialise.
        channels: C, the channels of the network's state and output.
        condition_channels: Channels of the network's further input.
        added: "zero" or "random": the first weights of added input channels.

    Returns:
        The tensors that fit, and the differences: first in the network's order, then the source's unused tensors.
    """
    fitted: dict[str, Tensor] = {}
    differences = []
    wanted = network.state_dict()
    for name, value in wanted.items():
        source, shape = stored.get(name), tuple(value.shape)
        if source is None:
            differences.append(Difference(name, None, shape, f"missing: {FRESH}"))
            continue
        new, action = _fitted(source, value, channels, channels + condition_channels, added)
        if new is not None:
            # Converted before the check for finite values: float8 has no isfinite, and a conversion may overflow.
            fitted[name] = new.to(value.dtype)
        if action:
            differences.append(Difference(name, tuple(source.shape), shape, action))
    surplus = [name for name in stored if name not in wanted]
    differences += [Difference(brief(name, 200), tuple(stored[name].shape), None, "not used") for name in surplus]
    return fitted, differences


def _fitted(stored: Tensor, wanted: Tensor, outputs: int, inputs: int, start: str) -> tuple[Tensor | None, str]:
    """The stored tensor in the wanted shape (None if it does not fit), and the change made to it ("" for none)."""
    fresh = f"does not fit: {FRESH}"
    if stored.is_floating_point() != wanted.is_floating_point() or stored.ndim != wanted.ndim:
        return None, fresh
    new, done = stored, []
    if new.ndim >= 1 and new.shape[0] > wanted.shape[0] == outputs:
        new = new[:outputs]
        done.append("output channels cut")
    if new.ndim >= 2 and outputs <= new.shape[1] < wanted.shape[1] == inputs:
        added = new.new_zeros(new.shape[0], inputs - new.shape[1], *new.shape[2:])
        new = torch.cat([new, added], dim=1)
        done.append("input channels added as zeros" if start == "zero" else "input channels added at random")
    if new.shape != wanted.shape:
        return None, fresh
    if start == "random" and stored.shape[1:] != wanted.shape[1:]:
        new[:, stored.shape[1] :] = wanted[:, stored.shape[1] :]
    return new, ", ".join(done)


@dataclass(frozen=True)
class Init:
    """Initial weights, read from a run folder or a file and verified."""

    source: Path
    """Path as the user gave it, or the name of a shipped run."""
    file: Path
    """The file of the weights."""
    sha256: str
    """SHA-256 of `file`."""
    tensors: dict[str, Tensor]
    companions: dict[str, dict[str, Tensor]]
    """Tensors of a run's companions, by name; empty for a file."""
    checkpoint: Checkpoint | None
    """The checkpoint of a run folder; None for a file."""
    recipe: Recipe | None
    """The recipe of a run folder; None for a file."""
    origin: Origin | None
    """Repository and commit of a copy of a run on the Hub; None for any other."""
    notes: list[str]

    def load_into(self, state: TrainState, recipe: Recipe) -> "Loaded":
        """Copy the weights into the network, its EMA, and those companions that both runs have.

        The optimizer starts anew, at step 0. At step 0 the new run restores images as the source does, except for the
        tensors that did not fit.

        Raises:
            UserError: No tensor fits; with train.init_strict, one does not fit exactly.
        """
        seen, added = recipe.in_latents(), recipe.train.init_added
        channels = (seen.data.channels, seen.extra_channels)
        fitted, differences = fit(self.tensors, state.network, *channels, added=added)
        if not fitted:
            hint = self._hint(recipe)
            with_settings = f"; they would with {hint}" if hint else ""
            raise UserError(f"train.init: {self.file}: none of its tensors fits the recipe's network{with_settings}")
        self._take(fitted, state.network)
        load_weights(state.ema, state.network.state_dict(), "train.init")
        taken, of = len(fitted), len(state.network.state_dict())
        lines = []
        for name, module in state.modules.items():
            if name == NETWORK:
                continue
            if name not in self.companions:
                if recipe.teacher is None:  # otherwise it is the auxiliary bridge, a copy of the teacher
                    lines.append(f"note: {self.source} has no weights of the {name}; it starts afresh")
                continue
            fitted, others = fit(self.companions[name], module, 0, 0)
            self._take(fitted, module)
            differences += [Difference(f"{name}/{row.tensor}", row.source, row.network, row.action) for row in others]
        if differences and recipe.train.init_strict:
            raise UserError(
                f"train.init: {self.file}: "
                f"{plural(len(differences), 'tensor does', 'tensors do')} not fit exactly, the first: "
                f"{_row(differences[0])}; without init_strict what fits is taken"
            )
        step = "" if self.checkpoint is None else f", step {self.checkpoint.step}"
        first = f"starting from the weights of {self.source}{step} ({self.file.name}, SHA-256 {self.sha256})"
        hint = self._hint(recipe) if any(row.action.endswith(FRESH) for row in differences) else ""
        table = _table(differences, taken, of, hint)
        lines = [first, *self.notes, *table, *lines]
        # A student has its teacher's weights, and always another method.
        parts = ("process", "target", "mean", *(["method"] if recipe.teacher is None else []))
        for part in () if self.recipe is None else parts:
            source_part, new_part = getattr(self.recipe, part), getattr(recipe, part)
            if part == "mean" and source_part and new_part and source_part.sha256 == new_part.sha256:
                continue  # the same weights; the name that the user gave and the cache may differ
            if source_part != new_part:
                lines.append(
                    f"note: the weights were trained with another {part}: {source_part} there, {new_part} here"
                )
        return Loaded(self, taken, of, differences, lines)

    def _hint(self, recipe: Recipe) -> str:
        """The settings, as on the command line, that give the recipe's network the shapes of the source's; else ""."""
        if self.recipe is None or self.recipe.network["name"] != recipe.network["name"]:
            return ""
        defaults = {key: option.default for key, option in NETWORKS.options(recipe.network["name"]).items()}
        source, network = ({**defaults, **part.network} for part in (self.recipe, recipe))
        given = [key for key in {**self.recipe.network, **recipe.network} if key not in NO_SHAPES]
        pairs = [(key, json.dumps(source[key]), json.dumps(network[key])) for key in given]  # as text: lists and tuples
        return shlex.join(f"network.{key}={value}" for key, value, other in pairs if value != other)

    def _take(self, fitted: dict[str, Tensor], module: nn.Module) -> None:
        load_weights(module, module.state_dict() | fitted, f"train.init: {self.file}")


@dataclass(frozen=True)
class Loaded:
    """The result of `Init.load_into`: `taken` of the network's `of` tensors came from the source."""

    init: Init
    taken: int
    of: int
    differences: list[Difference]
    lines: list[str]
    """Lines for the user: the source of the weights, and the differences."""

    def write(self, folder: Path) -> None:
        """Write INIT_FILE into a run folder: the source of the initial weights, and the differences.

        Raises:
            UserError: The file cannot be written.
        """
        checkpoint, origin = self.init.checkpoint, self.init.origin
        record = {
            "source": str(self.init.source),
            **({} if origin is None else asdict(origin)),
            **({} if checkpoint is None else {"checkpoint": checkpoint.folder.name}),
            "file": self.init.file.name,
            "sha256": self.init.sha256,
            "taken": self.taken,
            "of": self.of,
            "differences": [asdict(row) for row in self.differences],
        }
        write_whole(folder / INIT_FILE, (json.dumps(record, indent=1) + "\n").encode())


def _row(row: Difference) -> str:
    shapes = ["-" if shape is None else "x".join(map(str, shape)) or "number" for shape in (row.source, row.network)]
    return f"{brief(row.tensor)} ({shapes[0]} there, {shapes[1]} here): {row.action}"


def _table(differences: list[Difference], taken: int, of: int, hint: str) -> list[str]:
    if not differences:
        return []
    rows = [f"  {_row(row)}" for row in differences[:ROWS]]
    more = [f"  and {len(differences) - ROWS} more, in {INIT_FILE}"] if len(differences) > ROWS else []
    also = f" (more would with {hint})" if hint else ""
    return [f"note: {taken} of the network's {of} tensors come from there{also}; what is different:", *rows, *more]


def with_init(recipe: Recipe, source: str | Path, *, strict: bool = False, sha256: str | None = None) -> Recipe:
    """A copy of the recipe that starts from the weights of a run folder or file.

    Args:
        strict: Refuse a source whose tensors are not exactly the network's; a recipe with init_strict stays strict.
        sha256: SHA-256 that the weight file must have; None for any.
    """
    strict = strict or recipe.train.init_strict
    changes = {"init": str(source), "init_strict": strict, "init_sha256": sha256}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})


def recipe_from(run: str | Path, settings: Iterable[str] = ()) -> Recipe:
    """The recipe of a run with changed settings, starting from that run's weights (`train --from RUN`).

    Measured values of the run (moments of the target, size of the noise) stay, since the weights were trained for them.
    Its [mean], [teacher] and the autoencoder of its [latent] are the copies in its folder.

    Args:
        run: A run folder, the name of a shipped run, or owner/name of the Hub.
        settings: `key=value`, as on the command line.

    Raises:
        UserError: There is no such run, or a setting is wrong.
    """
    source = expanded(run)
    folder, changes = hub_folder(folder_of_run(source), lambda line: None), list(settings)
    recipe = load_recipe(recipe_of_run(folder), changes)
    for name, copied in (("mean", MEAN_FOLDER), ("teacher", TEACHER_FOLDER)):
        other = getattr(recipe, name)
        if other is not None and not any(text.startswith(f"{name}.run=") for text in changes):
            if not (folder / copied).exists():
                raise UserError(
                    f"{source}: has no copy of its {name}{' (a shared student has none)' * (name == 'teacher')}; say "
                    f"where that run is: {name}.run=RUN"
                )
            other = other.model_copy(update={"run": str(folder.absolute() / copied)})
            recipe = recipe.model_copy(update={name: other})
    latent = recipe.latent
    if latent is not None and "source" in latent.encoder and not any(text.startswith("latent.") for text in changes):
        encoder = latent.encoder | {"source": str(folder.absolute() / LATENT_FOLDER)}
        recipe = recipe.model_copy(update={"latent": latent.model_copy(update={"encoder": encoder})})
    return with_init(recipe, source)


def absolute_init(recipe: Recipe, folder: Path) -> Recipe:
    """A copy of the recipe with `train.init` as an absolute path, valid from any working directory.

    The name of a shipped run or of one on the Hub stays as it is.

    Args:
        folder: Folder of the new run.

    Raises:
        UserError: `train.init` is `folder`.
    """
    if recipe.train.init is None or is_shipped_run(Path(recipe.train.init)) or is_hub_name(Path(recipe.train.init)):
        return recipe
    source = Path(recipe.train.init).expanduser().absolute()
    if source.resolve() == folder.resolve():
        raise UserError(f"{folder}: a run cannot start from the weights of its own folder; choose another --out")
    return with_init(recipe, source, sha256=recipe.train.init_sha256)


def open_init(recipe: Recipe) -> Init | None:
    """Read and verify the source of `train.init`; None if the recipe has none.

    Raises:
        UserError: There is no such run or file, it has no whole checkpoint, its numbers are not finite, or its SHA-256
            is not train.init_sha256.
    """
    if recipe.train.init is None:
        return None
    named, checkpoint, source_recipe = Path(recipe.train.init), None, None
    companions, notes = dict[str, dict[str, Tensor]](), list[str]()
    source = folder_of_run(named)
    if is_hub_name(source):  # a recipe fetches nothing: --init and --from have done so
        source = local_copy(source.as_posix())
        if not source.exists():
            raise UserError(f"train.init: there is no {named}; from the Hub", command=f"i2i-bridge share pull {named}")
    if source.suffix in WEIGHTS and not source.is_dir():
        weights = _weights(source, recipe)
    elif not (source / RECIPE_FILE).is_file():
        raise UserError(
            f"train.init: {source} is not a run folder (it has no {RECIPE_FILE}), nor a file of weights "
            f"({', '.join(WEIGHTS)})"
        )
    else:
        with located("train.init"):
            checkpoint, damaged, (weights, companions) = read_checkpoint(source, lambda saved: _of_run(saved, recipe))
        notes = [f"note: {passed_over(line)}" for line in damaged]
        source_recipe = load_recipe(source / RECIPE_FILE)
    return Init(named, *weights, companions, checkpoint, source_recipe, read_origin(source), notes)


def _of_run(saved: Checkpoint, recipe: Recipe) -> tuple[Weights, dict[str, dict[str, Tensor]]]:
    """The weights of a run's checkpoint as `_weights` returns them, and the tensors of its companions, by name."""
    parts = {file.removesuffix(".safetensors") for file in saved.files} - {NETWORK, "ema"}
    companions = {part: saved.tensors(part) for part in sorted(parts) if not part.endswith("optimizer")}
    return _weights(saved.file("ema"), recipe), companions


def _weights(file: Path, recipe: Recipe) -> Weights:
    """A file of weights, its SHA-256 and its tensors.

    Raises:
        UserError: It cannot be read, its numbers are not finite, or its SHA-256 is not train.init_sha256.
    """
    with located(f"train.init: {file}", "cannot be read", OSError):
        sha256 = file_sha256(file)
    if recipe.train.init_sha256 not in (None, sha256):
        raise UserError(
            f"train.init: {file} has the SHA-256 {sha256}, not train.init_sha256 {recipe.train.init_sha256}: it has "
            "changed; leave init_sha256 out to start from it as it is"
        )
    with located("train.init"):
        tensors = read_safetensors(file) if file.suffix == ".safetensors" else read_pt(file, "weights")
    if all(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    return file, sha256, tensors
