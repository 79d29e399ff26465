"""Arguments and options that several verbs share, and the objects that they select."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from i2i_bridge import UserError, console, load_plugin
from i2i_bridge.storage.files import remove, write_whole
from i2i_bridge.storage.lock import LOCK_FILE
from i2i_bridge.storage.reader import read_bytes
from i2i_bridge.storage.shipped import folder_of_run, is_shipped_run, recipe_names, recipe_of_run

if TYPE_CHECKING:
    from i2i_bridge import Recipe, Run
    from i2i_bridge.images.outputs import Existing
    from i2i_bridge.recipe.schema import Direction

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A shipped recipe (see `list recipes`) or a TOML file.", autocompletion=recipe_names
    ),
]
RecipeOrSetting = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A shipped recipe (see `list recipes`) or a TOML file; none with --from.",
        autocompletion=recipe_names,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as train.lr=1e-4 data.root=photos."),
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run folder that `train` wrote, a shipped run (`list pretrained`), or OWNER/NAME of the Hugging Face "
        "Hub.",
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", metavar="FILE.py", help="Import this file first; what it registers can be named. Repeatable."
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="STEP|last|best",
        help="Which of the checkpoints that are kept (train.keep). Default: the last.",
    ),
]
SampleSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="sample.KEY=VALUE",
        help="Change a sampling setting of the run, such as sample.guidance.name=ddnm. Repeatable.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="png|jpg|webp|tif", help="Format of all results. Default: the input's (see docs/images.md)."
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(
        "--quality",
        min=1,
        max=100,
        metavar="N",
        help="Quality of JPEG (default 95) and WebP (default: without loss), 1 to 100.",
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        min=0,
        metavar="N",
        help="Restore larger images in overlapping tiles of N x N pixels, such as 512, in less memory; 0: whole. "
        "restore and app: by themselves from 2 million pixels on.",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        min=0,
        metavar="N",
        help="Fewest pixels that neighbouring tiles share. Default: 64, or N/4 if less.",
    ),
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Skip every input that has a result, whatever settings made it.")
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Make every result again. Default: in a folder, results of the same settings are kept."
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Another method on the same data: bridge, palette, flow, cdsb, regression, pix2pix, ... (`list methods`).",
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="eager|compile|openvino|auto",
        help="What computes the network: torch as it is (eager), torch.compile, or OpenVINO on a CPU; auto: openvino "
        "where it pays, with --precision bf16. One that cannot is not used, and a line says why.",
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="cpu|cuda", help="Where to compute. Default: CUDA where there is one.")
]


Source = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Fine-tune this run folder, shipped run or OWNER/NAME of the Hugging Face Hub: a new run of its recipe "
        "and data, from its weights (EMA); KEY=VALUE changes settings.",
    ),
]
Init = Annotated[
    Path | None,
    typer.Option(
        "--init",
        metavar="SOURCE",
        help="Start a new run from the weights of this run folder, shipped run, OWNER/NAME of the Hugging Face Hub, "
        ".safetensors or .pt file, as far as they fit.",
    ),
]
InitStrict = Annotated[
    bool, typer.Option("--init-strict", help="Refuse an --init whose tensors are not exactly the network's.")
]
Freeze = Annotated[
    list[str] | None,
    typer.Option(
        "--freeze",
        metavar="PATTERN",
        help="Do not train the network's parameters of these names, such as 'input_blocks.*'; in place of the recipe's "
        "train.freeze. Repeatable.",
    ),
]
DirectionOption = Annotated[
    str | None,
    typer.Option(
        "--direction",
        metavar="forward|reverse",
        help="From X_1 to X_0 (forward) or back, for a run that learned both (data.direction). Default: forward, or "
        "what it learned.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Train even where the sides of the pairs look exchanged.")]


def chosen_recipe(name: str, settings: list[str] | None, method: str | None) -> "Recipe":
    """Load the recipe of the command line: file, then `key=value` settings, then the preset of --method."""
    from i2i_bridge import load_recipe, method_preset

    return load_recipe(name, settings or [], None if method is None else method_preset(method))


def run_folder(recipe: "Recipe", method: str | None) -> Path:
    """The default run folder: runs/NAME, or runs/NAME-METHOD."""
    return Path("runs") / (recipe.name if method is None else f"{recipe.name}-{method}")


def checked_direction(direction: str | None) -> "Direction | None":
    """The direction of --direction.

    Raises:
        UserError: There is no such direction.
    """
    if direction not in (None, "forward", "reverse"):
        raise UserError(f"--direction {direction}: give forward or reverse")
    return cast("Direction | None", direction)


def existing_results(skip: bool, overwrite: bool) -> "Existing":
    """The policy for existing results that --skip-existing and --overwrite select.

    Raises:
        UserError: Both are given.
    """
    if skip and overwrite:
        raise UserError("--skip-existing and --overwrite: give one of them, or neither")
    return "skip" if skip else "overwrite" if overwrite else "resume"


def load_plugins(plugins: list[Path] | None) -> None:
    """Import the files of --plugin."""
    for file in plugins or []:
        load_plugin(file)


def fetched_run(run: Path, plugins: list[Path] | None) -> Path:
    """The folder of RUN: a path, a shipped run, or the local copy of OWNER/NAME, fetched from the Hub at first use.

    Raises:
        UserError: The run cannot be fetched.
    """
    folder = folder_of_run(run)
    if not folder.exists():
        from i2i_bridge.runs.hub import hub_folder, is_hub_name

        if is_hub_name(folder):
            load_plugins(plugins)  # the recipe is checked when it is fetched, and may name their parts
            folder = hub_folder(folder)
    return folder


def checked_run(run: Path, plugins: list[Path] | None) -> Path:
    """As `fetched_run`, for a run that must be there.

    Raises:
        UserError: It is no run folder; raised before torch is imported. Or the run cannot be fetched.
    """
    folder = fetched_run(run, plugins)
    recipe_of_run(folder)
    return folder


@contextmanager
def own_run(run: Path, plugins: list[Path] | None) -> Iterator[Path]:
    """Context with a run folder that can be written to; for a shipped run and one of the Hub its copy runs/NAME.

    The copy is created at first use, and removed again if the verb refuses before it has written anything to it:
    otherwise a mistake in an option would leave a run folder behind.

    Raises:
        UserError: As `_own_run`.
    """
    place = Path("runs") / run
    # The uppermost of the folders that a copy creates; None where the copy is there already.
    fresh = next((path for path in (*reversed(place.parents), place) if not os.path.lexists(path)), None)
    folder = _own_run(run, plugins)
    copied = _contents(fresh) if fresh is not None and folder == place else None
    try:
        yield folder
    except UserError:
        if fresh is not None and copied is not None and _contents(fresh) == copied:
            remove(fresh)
        raise


def _contents(folder: Path) -> set[Path]:
    """The files and links below a folder, without lock files."""
    return {path for path in folder.rglob("*") if path.name != LOCK_FILE and (path.is_symlink() or not path.is_dir())}


def _own_run(run: Path, plugins: list[Path] | None) -> Path:
    """The folder of `own_run`.

    Raises:
        UserError: The place of the copy holds other files, it cannot be written, or the run cannot be fetched.
    """
    if not is_shipped_run(run):
        if run.exists():
            return run
        from i2i_bridge.runs.hub import is_hub_name, own_copy

        if not is_hub_name(run):
            return run
        load_plugins(plugins)
        return own_copy(run)
    source, copy = folder_of_run(run), Path("runs") / run
    # Sorted, so that recipe.toml, which makes a folder a run, is copied last.
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        target, data = copy / file.relative_to(source), read_bytes(file)
        if not target.is_file():
            write_whole(target, data)
        elif read_bytes(target) != data:
            raise UserError(
                f"{target}: differs from that of the shipped {run}, whose copy belongs there; rename {copy}"
            )
    return copy


def open_run(folder: Path, *, checkpoint: int | str | None = None, **options: Any) -> "Run":
    """`load_run`; rank 0 prints a note for each damaged checkpoint that was skipped."""
    from i2i_bridge import load_run
    from i2i_bridge.distributed import processes

    return load_run(
        folder, checkpoint="last" if checkpoint is None else checkpoint, report=note_on(processes().rank), **options
    )


def note_on(rank: int = 0) -> Callable[[str], None]:
    """A function that prints a note on rank 0 and does nothing on other ranks."""
    return (lambda line: None) if rank else (lambda line: console.say(f"note: {line}"))
