"""The verbs `i2i-bridge restore` and `i2i-bridge degrade`: image files in, image files out."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from i2i_bridge import console
from i2i_bridge.cli.options import (
    Backend,
    Checkpoint,
    Device,
    DirectionOption,
    Format,
    Overlap,
    Overwrite,
    Plugins,
    Quality,
    RunFolder,
    SampleSettings,
    SkipExisting,
    Tile,
    checked_direction,
    checked_run,
    existing_results,
    load_plugins,
    open_run,
)
from i2i_bridge.errors import plural

if TYPE_CHECKING:
    from i2i_bridge.images.outputs import FilesOutcome


def restore(
    run: RunFolder,
    source: Annotated[Path, typer.Argument(metavar="IN", help="A degraded image, or a folder of them.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The restored file, or folder; names stay the same.")],
    nfe: Annotated[
        int | None,
        typer.Option(min=1, max=1000, metavar="N", help="Network calls per image, 1 to 1000. Default: the recipe's."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=1, max=10_000, metavar="K", help="Restorations per image; files get -1, -2, ... after their name."
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; sample k uses seed + k - 1.")] = 0,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="White = unknown: only these pixels are restored. An image, or a folder of images of the same names. "
            "Inpainting needs it; other tasks take it."
        ),
    ] = None,
    condition: Annotated[
        Path | None,
        typer.Option(
            help="Condition of the network, if its dataset has one: an image, or a folder of images of the same names."
        ),
    ] = None,
    direction: DirectionOption = None,
    label: Annotated[
        int | None, typer.Option(min=0, max=10**6, metavar="N", help="Class of the images, if the network has classes.")
    ] = None,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Also write the walk from X_1 to X_0, as NAME-trajectory.png.")
    ] = False,
    degrade: Annotated[
        bool,
        typer.Option(
            "--degrade",
            help="IN is clean: apply the recipe's degradation first (and save it beside, as NAME-degraded).",
        ),
    ] = False,
    tile: Tile = None,
    overlap: Overlap = None,
    colour_fix: Annotated[
        str,
        typer.Option(
            metavar="none|mean|wavelet", help="Give the result the mean, or the low frequencies, of the degraded image."
        ),
    ] = "none",
    sequence: Annotated[
        bool,
        typer.Option(
            "--sequence",
            help="IN holds the frames of a video: of one size, in the order of their numbers, tiled alike.",
        ),
    ] = False,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Worker processes for the images of a folder, on the CPU; each holds the run and an image in memory.",
        ),
    ] = 1,
    format: Format = None,
    quality: Quality = None,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    setting: SampleSettings = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|bf16|auto", help="Precision of the network; bf16 is faster on devices that support it."
        ),
    ] = "fp32",
    backend: Backend = "eager",
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Restore an image or a folder of images, of any size, with a trained run."""
    run = checked_run(run, plugin)
    load_plugins(plugin)
    from i2i_bridge import restore_files

    existing, way = existing_results(skip_existing, overwrite), checked_direction(direction)
    loaded = open_run(
        run, device=device, sample=setting or [], precision=precision, checkpoint=checkpoint, backend=backend
    )
    # For one image the progress counts network calls or tiles, for a folder images.
    single = source.is_file()
    with console.count_display("network calls" if single else "restored") as done:
        progress: Any = (
            {"report_calls": done, "report_tiles": partial(done, what="tiles")} if single else {"report": done}
        )
        outcome = restore_files(
            loaded,
            source,
            target,
            nfe=nfe,
            samples=samples,
            seed=seed,
            mask=mask,
            condition=condition,
            label=label,
            degrade=degrade,
            trajectory=trajectory,
            format=format,
            quality=quality,
            existing=existing,
            direction=way,
            say=lambda line: console.say(f"note: {line}"),
            tile=tile,
            overlap=overlap,
            colour_fix=colour_fix,
            sequence=sequence,
            jobs=jobs,
            **progress,
        )
    _finish(
        outcome,
        target,
        skip_existing,
        calls=f" ({plural(outcome.nfe, 'network call')} each)" if outcome.written else "",
    )


def degrade(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A clean image, or a folder of them.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The degraded file, or folder; names stay the same.")],
    op: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:KEY=VALUE,...",
            help="A degradation, such as jpeg:quality=5 or jpeg:quality=[5,30]. Repeatable: one after the other.",
        ),
    ] = None,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=V,V,...",
            help="Draw OUT.png instead: clean beside the last --op at each value, such as quality=5,10,20.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random draws, which differ between files.")] = 0,
    format: Format = None,
    quality: Quality = None,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    plugin: Plugins = None,
) -> None:
    """Apply any degradation to an image or a folder; masks come beside as NAME-mask.png, draws as parameters.csv."""
    load_plugins(plugin)
    from i2i_bridge.cli.preview import strengths_sheet
    from i2i_bridge.degradations.files import degrade_files, parse_op

    tables = [parse_op(text) for text in op or []]
    if vary is not None:
        console.say(f"wrote {target}: {strengths_sheet(tables, vary, source, target, seed=seed)}")
        return
    existing = existing_results(skip_existing, overwrite)
    with console.count_display("degraded") as done:
        outcome = degrade_files(
            tables, source, target, seed=seed, format=format, quality=quality, existing=existing, report=done
        )
    parameters = next(iter(outcome.parameters.values()), {}) if source.is_file() else {}
    _finish(outcome, target, skip_existing, [f"{name} = {value:.6g}" for name, value in parameters.items()])


def _finish(
    outcome: "FilesOutcome", target: Path, skip_existing: bool, values: Iterable[str] = (), calls: str = ""
) -> None:
    """Print the outcome of a verb; exit with code 2 if there were problems."""
    for line in outcome.notes:
        console.say(f"note: {line}")
    for line in outcome.problems:
        console.say_error(line)
    for line in values:
        console.say(line)
    why = (
        "that were there" if skip_existing else "that the same settings had made already; --overwrite makes them again"
    )
    skipped = f"; skipped {plural(outcome.skipped, 'image')} {why}" if outcome.skipped else ""
    console.say(f"wrote {plural(outcome.written, 'image')} to {target}{calls}{skipped}")
    if outcome.problems:
        raise typer.Exit(2)
