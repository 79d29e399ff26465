"""Training, evaluating and reporting as a person watches them: progress shown, stop signals heeded."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from i2i_bridge import console
from i2i_bridge.errors import TRY_AGAIN, UserError
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.reader import read_bytes
from i2i_bridge.storage.shipped import folder_of_run, is_shipped_run

if TYPE_CHECKING:
    from i2i_bridge.console import Progress
    from i2i_bridge.data.dataset import PairDataset
    from i2i_bridge.evaluation.results import Evaluation
    from i2i_bridge.recipe.recipe import Recipe
    from i2i_bridge.runs.run import Run

_HANG_UP = getattr(signal, "SIGHUP", None)
RESUMES = "the same command goes on"


def train_run(recipe: "Recipe", folder: Path, *, device: str | None = None) -> bool:
    """Train, or resume; the first SIGINT, SIGTERM, SIGUSR1 or SIGHUP saves and stops, the second stops at once.

    Where the output cannot be written any more (the terminal was closed, the program at the other end of the pipe has
    ended) the run is saved and stopped as well.

    Returns:
        Whether the run is finished.
    """
    from i2i_bridge.data.loader import STOP_SIGNALS
    from i2i_bridge.device import resolve_device
    from i2i_bridge.training.trainer import train

    chosen = None if device is None else resolve_device(device)
    asked = lost_output = False

    def ask(number: int, frame: FrameType | None) -> None:
        # Whatever was interrupted here may be printing, or hold a lock: a flag, and one bare call of the system.
        nonlocal asked
        if asked:  # the second time: at once, the last checkpoint stays
            os._exit(128 + number)
        asked = True
        with contextlib.suppress(OSError):
            os.write(1, b"stopping after this step (once more to stop at once)\n")

    def heard(event: "Progress | str") -> None:
        nonlocal lost_output
        try:
            show_progress(event)
        except OSError as error:
            # A full disk below a redirected output takes the lines only; a reader that is gone will not come back.
            lost_output = lost_output or error.errno != errno.ENOSPC

    signals = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    # nohup ignores SIGHUP so that the run outlives its terminal.
    signals = [number for number in signals if number != _HANG_UP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in signals}
    trained = None
    try:
        with console.training_display(recipe.train.steps) as show_progress:
            trained = train(
                recipe,
                folder,
                report=heard,
                stop=lambda: asked or lost_output,
                cpu=chosen is not None and chosen.type == "cpu",
            )
    except OSError:  # the display could not be ended: the training has
        if trained is None:
            raise
        lost_output = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    where = f"{folder} at step {trained.step}"
    if lost_output and not trained.finished:
        raise UserError(f"the output cannot be written any more; saved {where}; {RESUMES}", TRY_AGAIN)
    if not lost_output:
        console.say(f"trained {folder}, step {trained.step}" if trained.finished else f"saved {where}; {RESUMES}")
    return trained.finished


def own_run(run: Path) -> Path:
    """A run folder that results may be written to; of a shipped run a copy, runs/pretrained/NAME, made at first use.

    Raises:
        UserError: There is another run in the copy's place, or it cannot be written.
    """
    if not is_shipped_run(run):
        return run
    source, copy = folder_of_run(run), Path("runs") / run
    # In order of names, so the recipe, which makes it a run folder, comes last.
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        own, data = copy / file.relative_to(source), read_bytes(file)
        if not own.is_file():
            write_whole(own, data)
        elif read_bytes(own) != data:
            raise UserError(f"{own}: not that of the shipped {run}, whose copy belongs there; rename {copy}")
    return copy


def _local(device: str | None) -> str | None:
    """The device of this process, where `accelerate launch` started one for each."""
    from torch import cuda

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and device in (None, "cuda") and cuda.is_available() else device


def open_run(folder: Path, *, checkpoint: int | str | None = None, **options: Any) -> "Run":
    """`load_run`; what it passed over is said by the first process."""
    from i2i_bridge.distributed import processes
    from i2i_bridge.runs.run import load_run

    return load_run(
        folder, checkpoint="last" if checkpoint is None else checkpoint, report=_note(processes().rank), **options
    )


def _note(rank: int = 0) -> Callable[[str], None]:
    return (lambda line: None) if rank else (lambda line: console.say(f"note: {line}"))


def _open_evaluated(folder: Path, step: int, **options: Any) -> "Run":
    """The run at the step that was evaluated, where that checkpoint is still kept and whole; else at the last one."""
    from i2i_bridge.errors import UserError
    from i2i_bridge.storage.files import IO_ERROR

    try:
        return open_run(folder, checkpoint=step, **options)
    except UserError as error:
        if error.code == IO_ERROR:
            raise
        return open_run(folder, **options)


def evaluate_run(
    run: Path,
    *,
    nfe: list[int] | None = None,
    count: int | None = None,
    metrics: list[str] | None = None,
    protocol: str | None = None,
    list_file: Path | None = None,
    batch_size: int = 1,
    root: Path | None = None,
    device: str | None = None,
    sample: list[str] | None = None,
    name: str | None = None,
    out: Path | None = None,
    checkpoint: str | None = None,
    replace: bool = False,
) -> None:
    """Evaluate a run folder, None meaning the recipe's or protocol's setting, and print the table.

    Args:
        sample: Other settings of [sample] than the run's own; the result then needs a name and a folder.
    """
    from i2i_bridge.distributed import processes
    from i2i_bridge.evaluation.evaluate import dataset_of, resolve_for
    from i2i_bridge.evaluation.evaluate import evaluate as measure
    from i2i_bridge.recipe.protocol import read_list

    processes(cpu=device == "cpu")
    loaded = open_run(run, device=_local(device), sample=sample or [], checkpoint=checkpoint)
    settings = loaded.recipe.evaluate
    names = [] if list_file is None else read_list(list_file)
    rules = resolve_for(loaded.recipe, protocol, count=count, names=names)
    with _counted() as done:
        result = measure(
            loaded,
            dataset_of(loaded.recipe, rules, root),
            nfe=nfe or settings.nfe,
            metrics=metrics or list(rules.protocol.metrics or settings.metrics),
            protocol=rules,
            batch_size=batch_size,
            name=name,
            out=out,
            replace=replace,
            report=done,
        )
    _show(result, out or run)


def evaluate_images(
    what: str,
    images: Path,
    name: str,
    out: Path,
    *,
    count: int | None = None,
    metrics: list[str] | None = None,
    protocol: str | None = None,
    list_file: Path | None = None,
    root: Path | None = None,
    replace: bool = False,
) -> list[str]:
    """Score a folder of images as a run's are scored, and print the table.

    Args:
        what: A run folder, or a recipe.

    Returns:
        What is wrong with the images, all in one pass; nothing is scored then.
    """
    from i2i_bridge.evaluation.evaluate import dataset_of, folder_subject, resolve_for
    from i2i_bridge.evaluation.loop import measure
    from i2i_bridge.recipe.protocol import read_list
    from i2i_bridge.recipe.recipe import load_recipe
    from i2i_bridge.storage.shipped import RECIPE_FILE

    own = Path(what) / RECIPE_FILE
    recipe = load_recipe(own if own.is_file() else what)
    names = [] if list_file is None else read_list(list_file)
    rules = resolve_for(recipe, protocol, count=count, names=names)
    dataset = dataset_of(recipe, rules, root)
    subject, problems = folder_subject(recipe, dataset, rules, images, name, out)
    for problem in problems:
        console.say_error(problem)
    if not problems:
        wanted = metrics or list(rules.protocol.metrics or recipe.evaluate.metrics)
        with _counted() as done:
            result = measure(subject, dataset, rules, wanted, out, replace=replace, report=done)
        _show(result, out)
    return problems


@contextmanager
def _counted() -> Iterator[Callable[[int, int], None]]:
    """The progress of the first process; the others keep silent."""
    from i2i_bridge.distributed import processes

    if processes().rank:
        yield lambda done, total: None
    else:
        with console.counting("evaluated") as done:
            yield done


def _show(result: "Evaluation", folder: Path) -> None:
    from i2i_bridge.distributed import processes
    from i2i_bridge.evaluation.results import evaluation_folder
    from i2i_bridge.report.entries import single_table
    from i2i_bridge.report.table import to_words

    if processes().rank:
        return
    header, rows = to_words(single_table(result))
    step = f", step {result.step}" if result.step else ""
    # Not the table's title, which would be broken at the table's width.
    console.say(f"{result.recipe}, {result.method}{step}, {result.data.items} images, protocol {result.protocol.id}")
    console.show_table("", header, rows, numbers=True)
    for reason in result.skipped.values():
        console.say(f"not measured: {reason}")
    for warning in result.warnings:
        console.say(f"note: {warning}")
    notes = {
        f"{name} {estimate.note}" for row in result.rows for name, estimate in row.metrics.items() if estimate.note
    }
    for note in sorted(notes):
        console.say(f"note: {note}")
    console.say(f"wrote {evaluation_folder(folder, result.protocol.name) / 'evaluation.json'}")


def report_run(
    run: Path, *, root: Path | None = None, device: str | None = None, checkpoint: str | None = None
) -> None:
    """Write the report of an evaluated run folder, drawn by the checkpoint that was evaluated."""
    from i2i_bridge.errors import UserError
    from i2i_bridge.evaluation.results import read_evaluation
    from i2i_bridge.recipe.protocol import load_protocol
    from i2i_bridge.recipe.recipe import load_recipe
    from i2i_bridge.report.page import write_report
    from i2i_bridge.storage.shipped import recipe_of_run

    protocol = load_recipe(recipe_of_run(run)).evaluate.protocol
    name = load_protocol(protocol).name
    if checkpoint is None:
        loaded = _open_evaluated(run, read_evaluation(run, name).step, device=device)
    else:
        loaded = open_run(run, device=device, checkpoint=checkpoint)
        step = read_evaluation(run, name).step
        if step != loaded.step:
            raise UserError(
                f"{run}: evaluated at step {step}, not {loaded.step}; first: i2i-bridge evaluate {run} --checkpoint "
                f"{loaded.step}"
            )
    page = write_report(loaded, _pairs(loaded.recipe, protocol, root), name)
    console.say(f"wrote {page}")


def compare_runs(
    folders: list[Path],
    out: Path,
    *,
    nfe: list[int] | None = None,
    count: int | None = None,
    protocol: str | None = None,
    single_file: bool = False,
    root: Path | None = None,
    each_seed: bool = False,
    device: str | None = None,
    checkpoint: str | None = None,
    title: str = "",
    labels: Sequence[str] = (),
    against: str | None = None,
) -> None:
    """Write the page of several evaluated folders and print its tables; rows that are missing are measured first.

    None means what there is: the first run's own protocol, the NFE that were evaluated, the images too.
    """
    from i2i_bridge.data.dataset import PairDataset
    from i2i_bridge.recipe.protocol import load_protocol
    from i2i_bridge.recipe.recipe import load_recipe
    from i2i_bridge.report.differences import paired_differences
    from i2i_bridge.report.entries import Entry, open_entries, parse_labels, table_of, warnings_of
    from i2i_bridge.report.folder import check_out
    from i2i_bridge.report.page import write_page
    from i2i_bridge.report.table import differences_to_words, to_words
    from i2i_bridge.runs.run import Run
    from i2i_bridge.storage.shipped import RECIPE_FILE

    check_out(out, single_file)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give run folders, or scored folders of outside results")
    called = parse_labels(labels, folders)
    recipes = [load_recipe(folder / RECIPE_FILE) for folder in folders if (folder / RECIPE_FILE).is_file()]
    chosen = protocol or next((recipe.evaluate.protocol for recipe in recipes), "held-out")
    for folder in folders:
        with _counted() as done:
            _complete(folder, chosen, nfe, count, root, device, done, checkpoint or "last")

    def opened(entry: Entry) -> tuple[Run, PairDataset] | None:
        if entry.recipe is None:
            return None
        run = _open_evaluated(entry.folder, entry.evaluation.step, device=device)
        return run, _pairs(run.recipe, chosen, root)

    entries = open_entries(folders, load_protocol(chosen).name, each_seed=each_seed, labels=called)
    table = table_of(entries, nfe)
    paired = paired_differences(entries, table, against)
    with console.counting("drawn") as done:
        page = write_page(
            entries, out, opened, nfe=nfe, single_file=single_file, title=title, paired=paired, report=done
        )
    console.show_table("", *to_words(table), numbers=True)
    if paired.table.lines:
        console.say(f"Difference to {paired.against}, on the same images; ± standard error")
        console.show_table("", *differences_to_words(paired.table), numbers=True)
    for note in [*paired.notes, *warnings_of(entries)]:
        console.say(f"note: {note}")
    console.say(f"wrote {page}")


def _complete(
    folder: Path,
    protocol: str,
    nfe: list[int] | None,
    count: int | None,
    root: Path | None,
    device: str | None,
    report: Callable[[int, int], None],
    checkpoint: str,
) -> None:
    """Measure what is asked for and not there; outside results have what they have."""
    from i2i_bridge.distributed import processes
    from i2i_bridge.evaluation.evaluate import dataset_of, ensure_rows, evaluate, resolve_for
    from i2i_bridge.evaluation.results import evaluation_folder, read_evaluation
    from i2i_bridge.recipe.protocol import load_protocol
    from i2i_bridge.recipe.recipe import load_recipe
    from i2i_bridge.storage.shipped import RECIPE_FILE

    if not (folder / RECIPE_FILE).is_file():
        return
    recipe = load_recipe(folder / RECIPE_FILE)
    name = load_protocol(protocol).name
    there: list[int] = []
    if (evaluation_folder(folder, name) / "evaluation.json").is_file():
        rows = read_evaluation(folder, name).rows
        there = [int(row.name.removeprefix("nfe ")) for row in rows if row.name.startswith("nfe ")]
    wanted = nfe or there or recipe.evaluate.nfe
    if count is None:
        note = _note(processes().rank)
        ensure_rows(folder, wanted, protocol, report, root=root, device=device, checkpoint=checkpoint, note=note)
        return
    run, rules = open_run(folder, device=device, checkpoint=checkpoint), resolve_for(recipe, protocol, count=count)
    metrics = list(rules.protocol.metrics or recipe.evaluate.metrics)
    evaluate(run, dataset_of(recipe, rules, root), nfe=wanted, metrics=metrics, protocol=rules, report=report)


def _pairs(recipe: "Recipe", protocol: str, root: Path | None) -> "PairDataset":
    """The pairs that a page draws from."""
    from i2i_bridge.evaluation.evaluate import dataset_of, resolve_for

    # A list of images makes no difference to the pictures of the page.
    return dataset_of(recipe, resolve_for(recipe, protocol, names=["any"]), root)
