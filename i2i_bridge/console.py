"""Output of the command line: progress bars on a terminal, plain lines elsewhere.

Names, labels and summaries may be untrusted: every text passes through `errors.printable` and none is parsed as markup.
"""

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from i2i_bridge.errors import UserError, one_line, printable


@dataclass(frozen=True)
class Progress:
    """Numbers of a logged training step; loss, rates and shares are averages since the previous logged step."""

    step: int
    steps: int
    loss: float
    """Loss of the network."""
    lr: float
    grad_norm: float
    """Gradient norm of the network, before clipping."""
    steps_per_second: float
    data_share: float
    """Share of the time spent waiting for data, 0 to 1."""
    memory_gb: float
    """Peak memory so far: of the device, or of this process on a CPU."""
    seconds_left: float
    companions: dict[str, float] = field(default_factory=dict)
    """Losses of the other trained modules, such as a discriminator, by name."""

    def row(self) -> dict[str, float | None]:
        """All numbers by name, as a row of a table; the loss of companion NAME is `loss_NAME`.

        A number that is NaN, such as the loss of a module that took no step since the last row, is None: JSON has none.
        """
        row = {name: value for name, value in vars(self).items() if name != "companions"}
        row |= {f"loss_{name}": value for name, value in self.companions.items()}
        return {name: None if math.isnan(value) else value for name, value in row.items()}


PLAIN: Any = {"highlight": False, "markup": False, "emoji": False}
"""Options of rich that print text verbatim: no markup in brackets, no emoji for `:name:`."""


class _Console(Console):
    """A console that raises BrokenPipeError if its reader is gone; rich itself would exit the program."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that rich is handling when it calls this method


console = _Console(soft_wrap=True, **PLAIN)


errors = _Console(stderr=True, soft_wrap=True, **PLAIN)


def is_watched() -> bool:
    """Whether the session is interactive: a terminal, a notebook, or the prompt of Python or IPython."""
    return console.is_terminal or hasattr(sys, "ps1") or "ipykernel" in sys.modules


def say(text: str) -> None:
    """Print one plain line."""
    console.print(printable(text))


def say_error(text: str | UserError) -> None:
    """Print `error: ...` on standard error, in one line, and below it the alternative commands of a UserError."""
    # A UserError is already one line, and `one_line` could cut off the command at its end.
    line = printable(str(text)) if isinstance(text, UserError) else one_line(text)
    errors.print(f"error: {line}", style="red" if errors.is_terminal else None)
    for way in getattr(text, "ways", ()):
        errors.print(f"  {printable(way)}")


def say_note(text: str) -> None:
    """Print `note: ...` on standard error, in one line: for outputs that are redirected to a file."""
    errors.print(f"note: {one_line(text)}")


def write(text: str) -> None:
    """Print a text of several lines, such as a recipe, without wrapping it and without adding a line end."""
    sys.stdout.write(printable(text, lines=True))
    sys.stdout.flush()


def _report(text: str) -> None:
    """Print a line of progress and flush it, where the output is no terminal."""
    print(printable(text), flush=True)


def training_line(progress: "Progress") -> str:
    """Format a progress report as text."""
    left = int(progress.seconds_left)
    # Not those of modules that took no step, as in a method that trains its modules by turns.
    losses = {"loss": progress.loss} | progress.companions
    shown = {name: loss for name, loss in losses.items() if not math.isnan(loss)} or {"loss": math.nan}
    return (
        f"step {progress.step}/{progress.steps}  {'  '.join(f'{name} {loss:.4f}' for name, loss in shown.items())}  "
        f"lr {progress.lr:.2e}  |grad| {'-' if math.isnan(progress.grad_norm) else f'{progress.grad_norm:.3f}'}  "
        f"{progress.steps_per_second:.2f} it/s  data {progress.data_share:.0%}  "
        f"mem {progress.memory_gb:.1f} GB  ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
    )


@contextmanager
def training_display(steps: int) -> Iterator[Callable[["Progress | str"], None]]:
    """Display for `train(report=...)`: a live bar on a terminal, a line per report elsewhere."""
    if not console.is_terminal:

        def plain(event: "Progress | str") -> None:
            _report(event if isinstance(event, str) else training_line(event))

        yield plain
        return
    columns = (BarColumn(), TextColumn("{task.description}", markup=False))
    with Bars(*columns, console=console) as bar:
        task = bar.add_task("the first steps are the slowest ...", total=steps)

        def live(event: "Progress | str") -> None:
            if isinstance(event, str):
                bar.console.print(Text(printable(event)))
            else:
                # Two lines; otherwise a terminal of 80 columns cuts off the end and has no room for the bar.
                text = printable(training_line(event)).replace("  |grad|", "\n|grad|")
                bar.update(task, completed=event.step, description=text)

        yield live


@contextmanager
def count_display(what: str) -> Iterator[Callable[..., None]]:
    """Progress display for (done, total): a bar on a terminal; elsewhere about ten lines, with the time left.

    The function that it yields takes another `what`, where the kind of what is counted is known only later.
    """
    if not console.is_terminal:
        begun = time.monotonic()

        def plain(done: int, total: int, what: str = what) -> None:
            if done == total or done % max(total // 10, 1) == 0:
                left = int((time.monotonic() - begun) / max(done, 1) * (total - done))
                eta = f", about {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left" if left >= 10 else ""
                _report(f"{what} {done}/{total}{eta}")

        yield plain
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bar:
        task = bar.add_task(printable(what), total=None)

        def live(done: int, total: int, what: str = what) -> None:
            bar.update(task, description=printable(what), completed=done, total=total)

        yield live


@contextmanager
def transfer_display(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress display for (bytes done, total bytes or 0 if unknown): a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        shown = -1

        def plain(done: int, total: int) -> None:
            nonlocal shown
            tenth = 10 * done // total if total else done // 10**8
            if tenth > shown:
                shown = tenth
                _report(f"{what}: {done:,}{f' of {total:,}' if total else ''} bytes")

        yield plain
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bar:
        task = bar.add_task(printable(what), total=None)

        def live(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield live


def show_table(header: list[str], rows: list[list[str]], *, numbers: bool = False) -> None:
    """Print a table. With `numbers`, all columns but the first are right-aligned."""
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(_cell(name), justify="right" if numbers and i else "left", no_wrap=True, header_style="bold")
    for row in rows:
        table.add_row(*map(_cell, row))
    # As wide as its content, whatever the terminal's width; otherwise rich truncates names and numbers.
    file = console.file if console.is_terminal else sys.stdout
    options = {"file": file, "force_terminal": console.is_terminal, "soft_wrap": True, **PLAIN}
    wide = Console(width=10_000, **options)
    Console(width=Measurement.get(wide, wide.options, table).maximum, **options).print(table)


def show_list(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print names with a one-line description, cut to the width of the terminal (COLUMNS, or 80); names are not cut."""
    shown = [[printable(cell) for cell in row] for row in (header, *rows)]
    names = max(cell_len(name) for name, _ in shown)
    room = max(shutil.get_terminal_size((80, 24)).columns - names - 2, 0)
    for i, (name, line) in enumerate(shown):
        if cell_len(line) > room:
            line = set_cell_size(line, max(room - 3, 0)).rstrip() + "..."[:room]
        text = f"{name}{' ' * (names - cell_len(name))}  {line}".rstrip()
        console.print(Text(text, style="" if i else "bold"), soft_wrap=True)


def _cell(text: str) -> Text:
    return Text(printable(text))
