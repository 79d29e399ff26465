"""What the command line prints: progress bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from i2i_bridge.progress import Progress as Reached

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One plain line; brackets in it are text, not markup."""
    console.print(text, markup=False)


def say_error(text: str) -> None:
    """`error: ...` on standard error, one line."""
    errors.print(f"error: {text}", markup=False, style="red" if errors.is_terminal else None)


def training_line(progress: "Reached") -> str:
    """A progress report as text."""
    left = int(progress.seconds_left)
    companions = "".join(f"  {name} {loss:.4f}" for name, loss in progress.companions.items())
    return (
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}{companions}  lr {progress.lr:.2e}  "
        f"|grad| {progress.grad_norm:.3f}  {progress.steps_per_second:.2f} it/s  data {progress.data_share:.0%}  "
        f"mem {progress.memory_gb:.1f} GB  ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
    )


@contextmanager
def training_display(steps: int) -> Iterator[Callable[["Reached | str"], None]]:
    """The `report` of `train`: a live bar on a terminal, a line per report elsewhere."""
    if not console.is_terminal:

        def plain(event: "Reached | str") -> None:
            print(event if isinstance(event, str) else training_line(event), flush=True)

        yield plain
        return
    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("the first steps are the slowest ...", total=steps)

        def live(event: "Reached | str") -> None:
            if isinstance(event, str):
                bar.console.print(event, markup=False)
            else:
                # Two lines: of one, a terminal of 80 columns cuts the end off and leaves no room for the bar.
                text = training_line(event).replace("  |grad|", "\n|grad|")
                bar.update(task, completed=event.step, description=text)

        yield live


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A report of (done, total): a bar on a terminal, at most ten lines elsewhere."""
    if not console.is_terminal:

        def plain(done: int, total: int) -> None:
            if done == total or done % max(total // 10, 1) == 0:
                print(f"{what} {done}/{total}", flush=True)

        yield plain
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None)

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
                print(f"{what}: {done:,}{f' of {total:,}' if total else ''} bytes", flush=True)

        yield plain
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None)

        def live(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield live


def show_table(title: str, header: list[str], rows: list[list[str]], *, numbers: bool = False) -> None:
    """A table; numbers, in the columns after the first, are right-aligned."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if numbers and i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    wide = console if console.is_terminal else Console(width=200, highlight=False, file=sys.stdout)
    wide.print(table)
