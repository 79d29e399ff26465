"""The weights that a new run starts from: another run's, or a file's (`train.init`, `train --init SOURCE`).

They are read at step 0 only. A resumed run loads its own checkpoint and does not open the source.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from i2i_bridge.errors import UserError, brief
from i2i_bridge.recipe.recipe import Recipe, load_recipe
from i2i_bridge.runs.checkpoint import Checkpoint, latest_checkpoint, passed_over
from i2i_bridge.runs.run import load_weights
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.reader import open_regular
from i2i_bridge.storage.shipped import RECIPE_FILE, folder_of_run, is_shipped_run
from i2i_bridge.storage.tensors import read_pt, read_safetensors
from i2i_bridge.training.state import NETWORK, TrainState

INIT_FILE = "init.json"
"""Where a run folder says what its first weights were."""
WEIGHTS = (".safetensors", ".pt", ".pth")
"""Files of weights by name, beside run folders."""
ROWS = 12
"""Of the table of differences that are printed; init.json has all."""


@dataclass(frozen=True)
class Difference:
    """A tensor that the source and the network do not have alike.

    Args:
        tensor: Its name.
        source: Shape in the source; None where it is missing there.
        network: Shape in the network; None where it is missing there.
        action: What became of it.
    """

    tensor: str
    source: tuple[int, ...] | None
    network: tuple[int, ...] | None
    action: str


def fit(
    stored: Mapping[str, Tensor], network: nn.Module, channels: int, condition_channels: int
) -> tuple[dict[str, Tensor], list[Difference]]:
    r"""The tensors of a source as those of a network, as far as they fit.

        W'[:, :k] = W,  W'[:, k:] = 0      input channels added for a condition
        W' = W[:C],     b' = b[:C]         more output channels than the network's C

    The first network so computes what the source computes, whatever its condition is. Everything else that has
    another shape or kind of number is left out, and starts as the network draws it.

    Args:
        stored: Of the source, by name.
        network: Which tensors are wanted.
        channels: C, of the network's state and output.
        condition_channels: Of what the network sees beside its state.

    Returns:
        The tensors that fit, and what is different: in the network's order, then the source's surplus.
    """
    fitted: dict[str, Tensor] = {}
    differences = []
    wanted = network.state_dict()
    for name, value in wanted.items():
        there, shape = stored.get(name), tuple(value.shape)
        if there is None:
            differences.append(Difference(name, None, shape, "missing: starts fresh"))
            continue
        new, action = _fitted(there, value, channels, channels + condition_channels)
        if new is not None:
            fitted[name] = new.to(value.dtype)  # else a narrow format could not be checked, nor one that overflows
        if action:
            differences.append(Difference(name, tuple(there.shape), shape, action))
    surplus = [name for name in stored if name not in wanted]
    differences += [Difference(brief(name, 200), tuple(stored[name].shape), None, "not used") for name in surplus]
    return fitted, differences


def _fitted(stored: Tensor, wanted: Tensor, outputs: int, inputs: int) -> tuple[Tensor | None, str]:
    """A stored tensor in the wanted shape, None where it does not fit; and what was done, "" for nothing."""
    fresh = "does not fit: starts fresh"
    if stored.is_floating_point() != wanted.is_floating_point() or stored.ndim != wanted.ndim:
        return None, fresh
    new, done = stored, []
    if new.ndim >= 1 and new.shape[0] > wanted.shape[0] == outputs:
        new = new[:outputs]
        done.append("output channels cut")
    if new.ndim >= 2 and outputs <= new.shape[1] < wanted.shape[1] == inputs:
        added = new.new_zeros(new.shape[0], inputs - new.shape[1], *new.shape[2:])
        new = torch.cat([new, added], dim=1)
        done.append("input channels added as zeros")
    return (new, ", ".join(done)) if new.shape == wanted.shape else (None, fresh)


@dataclass(frozen=True)
class Init:
    """A source of first weights, read and verified."""

    source: Path
    """As it was named: of a shipped run its name."""
    file: Path
    """Of the weights."""
    sha256: str
    """Of that file."""
    tensors: dict[str, Tensor]
    checkpoint: Checkpoint | None
    """Of a run folder; None for a file."""
    recipe: Recipe | None
    """Of a run folder; None for a file."""
    notes: list[str]

    def load_into(self, state: TrainState, recipe: Recipe) -> "Loaded":
        """Copy the weights into the network and its average, and companions' weights where both runs have them.

        The optimizer starts anew, at step 0. What was restored by the source is restored by the new run's step 0, but
        for the tensors that did not fit.

        Raises:
            UserError: No tensor fits; with train.init_strict, one does not fit exactly.
        """
        fitted, differences = fit(self.tensors, state.network, recipe.data.channels, recipe.condition_channels)
        if not fitted:
            raise UserError(f"train.init: {self.file}: none of its tensors fits the recipe's network")
        self._take(fitted, state.network)
        load_weights(state.ema, state.network.state_dict(), "train.init")
        taken, of = len(fitted), len(state.network.state_dict())
        lines = []
        for name, module in state.modules.items():
            if name == NETWORK:
                continue
            if not self._has(name):
                lines.append(f"note: {self.source} has no weights of the {name}; it starts afresh")
                continue
            assert self.checkpoint is not None
            fitted, others = fit(self.checkpoint.tensors(name), module, 0, 0)
            self._take(fitted, module)
            differences += [Difference(f"{name}/{row.tensor}", row.source, row.network, row.action) for row in others]
        if differences and recipe.train.init_strict:
            raise UserError(
                f"train.init: {self.file}: {len(differences)} tensors do not fit exactly, the first: "
                f"{_row(differences[0])}; without init_strict what fits is taken"
            )
        step = "" if self.checkpoint is None else f", step {self.checkpoint.step}"
        first = f"starting from the weights of {self.source}{step} ({self.file.name}, SHA-256 {self.sha256})"
        lines = [first, *self.notes, *_table(differences, taken, of), *lines]
        for part in () if self.recipe is None else ("method", "process", "target", "mean"):
            there, here = getattr(self.recipe, part), getattr(recipe, part)
            if there != here:
                lines.append(f"note: the weights were trained with another {part}: {there} there, {here} here")
        return Loaded(self, taken, of, differences, lines)

    def _take(self, fitted: dict[str, Tensor], module: nn.Module) -> None:
        load_weights(module, module.state_dict() | fitted, f"train.init: {self.file}")

    def _has(self, part: str) -> bool:
        return self.checkpoint is not None and (self.checkpoint.folder / f"{part}.safetensors").is_file()


@dataclass(frozen=True)
class Loaded:
    """What a new run took over."""

    init: Init
    taken: int
    of: int
    """Tensors of the network, and how many of them came from the source."""
    differences: list[Difference]
    lines: list[str]
    """For the user: what the weights are, and what does not fit."""

    def write(self, folder: Path) -> None:
        """Write down in a run folder where its first weights came from, and what did not fit.

        Raises:
            UserError: The file cannot be written.
        """
        checkpoint = self.init.checkpoint
        said = {
            "source": str(self.init.source),
            **({} if checkpoint is None else {"checkpoint": checkpoint.folder.name}),
            "file": self.init.file.name,
            "sha256": self.init.sha256,
            "taken": self.taken,
            "of": self.of,
            "differences": [asdict(row) for row in self.differences],
        }
        write_whole(folder / INIT_FILE, (json.dumps(said, indent=1) + "\n").encode())


def _row(row: Difference) -> str:
    shapes = ["-" if shape is None else "x".join(map(str, shape)) or "number" for shape in (row.source, row.network)]
    return f"{brief(row.tensor)} ({shapes[0]} there, {shapes[1]} here): {row.action}"


def _table(differences: list[Difference], taken: int, of: int) -> list[str]:
    if not differences:
        return []
    rows = [f"  {_row(row)}" for row in differences[:ROWS]]
    more = [f"  and {len(differences) - ROWS} more, in {INIT_FILE}"] if len(differences) > ROWS else []
    return [f"note: {taken} of the network's {of} tensors come from there; what is different:", *rows, *more]


def with_init(recipe: Recipe, source: str | Path, *, strict: bool = False, sha256: str | None = None) -> Recipe:
    """The recipe, to start from the weights of a run folder or file.

    Args:
        strict: Refuse a source whose tensors are not exactly the network's; also where the recipe says so itself.
        sha256: That the file of weights must have; None for any.
    """
    strict = strict or recipe.train.init_strict
    changes = {"init": str(source), "init_strict": strict, "init_sha256": sha256}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})


def absolute_init(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with `train.init` as an absolute path, so that it means the same from any folder; a shipped run keeps
    its name.

    Args:
        folder: Of the new run.

    Raises:
        UserError: It is the new run's own folder.
    """
    if recipe.train.init is None or is_shipped_run(Path(recipe.train.init)):
        return recipe
    source = Path(recipe.train.init).expanduser().absolute()
    if source.resolve() == folder.resolve():
        raise UserError(f"{folder}: a run cannot start from the weights of its own folder; choose another --out")
    return with_init(recipe, source, sha256=recipe.train.init_sha256)


def open_init(recipe: Recipe) -> Init | None:
    """The source that `train.init` names, read and verified; None where it names none.

    Raises:
        UserError: There is no such run or file, it has no whole checkpoint, its numbers are not finite, or its SHA-256
            is not train.init_sha256.
    """
    if recipe.train.init is None:
        return None
    named, checkpoint, there, notes = Path(recipe.train.init), None, None, list[str]()
    source = folder_of_run(named)
    if source.suffix in WEIGHTS and not source.is_dir():
        file = source
    elif not (source / RECIPE_FILE).is_file():
        raise UserError(
            f"train.init: {source} is not a run folder (it has no {RECIPE_FILE}), nor a file of weights "
            f"({', '.join(WEIGHTS)})"
        )
    else:
        checkpoint, damaged = latest_checkpoint(source / "checkpoints")
        if checkpoint is None:
            raise UserError(f"train.init: {source} has no checkpoint yet; train it first")
        notes = [f"note: {passed_over(line)}" for line in damaged]
        file, there = checkpoint.folder / "ema.safetensors", load_recipe(source / RECIPE_FILE)
    sha256 = _sha256(file)
    if recipe.train.init_sha256 not in (None, sha256):
        raise UserError(
            f"train.init: {file} has the SHA-256 {sha256}, not train.init_sha256 {recipe.train.init_sha256}: it has "
            "changed; leave init_sha256 out to start from it as it is"
        )
    try:
        tensors = read_safetensors(file) if file.suffix == ".safetensors" else read_pt(file)
    except UserError as error:
        raise UserError(f"train.init: {error}") from error
    return Init(named, file, sha256, tensors, checkpoint, there, notes)


def _sha256(file: Path) -> str:
    try:
        with open_regular(file) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"train.init: {file}: cannot be read ({error.strerror or error})") from error
