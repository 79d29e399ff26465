"""What the command line prints: progress bars on a terminal, plain lines elsewhere.

Names, labels and summaries may be a stranger's: every text goes through `errors.printable`, and none is markup.
"""

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
    """What a logged step says; loss, rates and shares are over the steps since the last one."""

    step: int
    steps: int
    loss: float
    """The network's."""
    lr: float
    grad_norm: float
    """The network's, before clipping."""
    steps_per_second: float
    data_share: float
    """Share of the time spent waiting for data, 0 to 1."""
    memory_gb: float
    """Peak so far: of the device, or of this process on a CPU."""
    seconds_left: float
    companions: dict[str, float] = field(default_factory=dict)
    """Losses of what is trained beside the network, by name."""

    def row(self) -> dict[str, float]:
        """All numbers by name, for a table: a companion's loss is `loss_NAME`."""
        row = {name: value for name, value in vars(self).items() if name != "companions"}
        return row | {f"loss_{name}": value for name, value in self.companions.items()}


PLAIN: Any = {"highlight": False, "markup": False, "emoji": False}
"""A text is shown as it is: no markup in brackets, no picture for `:name:`."""


class _Console(Console):
    """A console whose reader may go away: that is an error like another, and does not end the program from within."""

    def on_broken_pipe(self) -> None:
        raise  # what rich handles when it calls this: the BrokenPipeError


console = _Console(soft_wrap=True, **PLAIN)


errors = _Console(stderr=True, soft_wrap=True, **PLAIN)


def is_watched() -> bool:
    """Whether somebody looks on: a terminal, a notebook, or the prompt of Python or IPython."""
    return console.is_terminal or hasattr(sys, "ps1") or "ipykernel" in sys.modules


def say(text: str) -> None:
    """One plain line."""
    console.print(printable(text))


def say_error(text: str | UserError) -> None:
    """`error: ...` on standard error, one line, and below it the commands that a UserError offers."""
    # A UserError is one line already, and may end with a command that must stay whole.
    line = printable(str(text)) if isinstance(text, UserError) else one_line(text)
    errors.print(f"error: {line}", style="red" if errors.is_terminal else None)
    for way in getattr(text, "ways", ()):
        errors.print(f"  {printable(way)}")


def write(text: str) -> None:
    """A text of several lines, such as a recipe, unwrapped and without a line end of its own."""
    sys.stdout.write(printable(text, lines=True))
    sys.stdout.flush()


def _report(text: str) -> None:
    """A line of progress where there is no terminal; at once, for whoever reads along."""
    print(printable(text), flush=True)


def training_line(progress: "Progress") -> str:
    """A progress report as text."""
    left = int(progress.seconds_left)
    companions = "".join(f"  {name} {loss:.4f}" for name, loss in progress.companions.items())
    return (
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}{companions}  lr {progress.lr:.2e}  "
        f"|grad| {progress.grad_norm:.3f}  {progress.steps_per_second:.2f} it/s  data {progress.data_share:.0%}  "
        f"mem {progress.memory_gb:.1f} GB  ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
    )


@contextmanager
def training_display(steps: int) -> Iterator[Callable[["Progress | str"], None]]:
    """The `report` of `train`: a live bar on a terminal, a line per report elsewhere."""
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
                # Two lines: of one, a terminal of 80 columns cuts the end off and leaves no room for the bar.
                text = printable(training_line(event)).replace("  |grad|", "\n|grad|")
                bar.update(task, completed=event.step, description=text)

        yield live


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A report of (done, total): a bar on a terminal, at most some ten lines elsewhere, with the time left if long."""
    if not console.is_terminal:
        begun = time.monotonic()

        def plain(done: int, total: int) -> None:
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

        def live(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield live


@contextmanager
def transferring(what: str) -> Iterator[Callable[[int, int], None]]:
    """A report of (bytes done, bytes in all; 0 where unknown): a bar on a terminal, at most ten lines elsewhere."""
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


def show_table(title: str, header: list[str], rows: list[list[str]], *, numbers: bool = False) -> None:
    """A table; numbers, in the columns after the first, are right-aligned."""
    table = Table(title=_cell(title) if title else None, title_justify="left", box=None, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(_cell(name), justify="right" if numbers and i else "left", no_wrap=True, header_style="bold")
    for row in rows:
        table.add_row(*map(_cell, row))
    # As wide as its content, whatever the terminal's width: rich would cut names and numbers to fit.
    file = console.file if console.is_terminal else sys.stdout
    options = {"file": file, "force_terminal": console.is_terminal, "soft_wrap": True, **PLAIN}
    wide = Console(width=10_000, **options)
    Console(width=Measurement.get(wide, wide.options, table).maximum, **options).print(table)


def show_list(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Names and a line about each, as wide as the terminal (or COLUMNS, else 80): the line is cut, a name never."""
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
