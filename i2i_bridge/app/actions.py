"""Actions of the page's elements."""

import html
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from i2i_bridge.app.limits import Limits, check_size
from i2i_bridge.app.pictures import EDITOR_SIDE, SHOWN_SIDE, copied, view
from i2i_bridge.app.restoration import Request, degrade_picture_file, restore_picture
from i2i_bridge.errors import UserError
from i2i_bridge.runs.run import Run

OWN, SAME = "the run's own", "as the original"
NOTHING, RECIPE, OPERATORS = "nothing", "the run's own degradation", "the operators below"
FOLDERS_KEPT = 8
"""Folders of results on the server's disk; gradio has copied those of a request when the next begins."""


@dataclass(eq=False)
class Actions:
    """Actions of the page's elements. Refusals are shown without paths; any other error is logged by the server."""

    runs: Mapping[str, Run]
    """The runs by the names that are shown."""
    folder: Path
    """A folder for the results of requests."""
    limits: Limits
    examples: Mapping[str, Path]
    """Example pictures by name."""
    report_error: Callable[[str], None]
    """Called with a line for an error that is not the visitor's."""
    kept: deque[Any] = field(default_factory=deque, init=False)
    """The newest folders of results, at most FOLDERS_KEPT."""

    def new_folder(self) -> Path:
        self.kept.append(tempfile.TemporaryDirectory(dir=self.folder))
        if len(self.kept) > FOLDERS_KEPT:
            self.kept.popleft().cleanup()
        return Path(self.kept[-1].name)

    @contextmanager
    def errors(self, *places: Path) -> Iterator[None]:
        """Show a refusal as its line without paths, and any other error as one that the server has logged."""
        import gradio as gr

        try:
            yield
        except UserError as error:
            line = public_text(str(error), [*places, self.folder, *(run.folder for run in self.runs.values())])
            raise gr.Error(html.escape(line, quote=False), duration=None, print_exception=False) from None
        except Exception as error:
            self.report_error(f"{type(error).__name__}: {' '.join(str(error).split())}")
            raise gr.Error("an error of the server, which has logged it", print_exception=False) from None

    def about(self, name: str) -> str:
        recipe = self.runs[name].recipe
        return f"{recipe.summary or recipe.name} ({recipe.task}, step {self.runs[name].step})"

    def nfe(self, name: str) -> int:
        return min(self.runs[name].recipe.sample.nfe, self.limits.nfe)

    def chosen(self, name: str) -> tuple[Any, Any]:
        """After the choice of a run: its network calls, and the line about it."""
        import gradio as gr

        return gr.update(value=self.nfe(name)), gr.update(info=self.about(name))

    def picked(self, name: str | None) -> str | None:
        """After the choice of an example: a copy of it, as the picture."""
        if name is None:
            return None
        with self.errors(self.examples[name].parent):
            return str(copied(self.examples[name], self.new_folder()))

    def uploaded(self, file: str | None, name: str) -> tuple[Any, Any]:
        """After an upload: the view of the picture, and the editor for its mask."""
        if file is None:
            return None, None
        with self.errors(Path(file).parent):
            check_size(Path(file), self.limits)
            place, known = self.new_folder(), self.runs[name].recipe.data.value_range
            small = view(Path(file), place / "editor.png", known, EDITOR_SIDE)
            editor: dict[str, Any] = {"background": str(small), "layers": [], "composite": None}
            return str(view(Path(file), place / "picture.png", known, SHOWN_SIDE)), editor

    def degraded(self, file: str | None, name: str, ops: str, seed: float | None) -> tuple[Any, Any]:
        """The picture after the operators: its view, and its file."""
        with self.errors(Path(file or ".").parent):
            given, place = _given(file), self.new_folder()
            if not ops.strip():
                raise UserError("no operator: write one, such as jpeg:quality=10")
            result, _ = degrade_picture_file(given, ops, number("seed", seed), place / "degraded", self.limits)
            known = self.runs[name].recipe.data.value_range
            return str(view(result, place / "picture.png", known, SHOWN_SIDE)), str(result)

    def results(self, given: Path, name: str, request: Request, report: Callable[[int, int], None]) -> tuple[Any, ...]:
        """Restore a picture: values of the elements of `_result_part`."""
        import gradio as gr

        place, run = self.new_folder(), self.runs[name]
        answer = restore_picture(run, given, request, place, self.limits, report)
        known = run.recipe.data.value_range
        after = [view(file, place / "views" / f"{k}.png", known, SHOWN_SIDE) for k, file in enumerate(answer.restored)]
        with Image.open(after[0]) as image:
            before = view(answer.degraded, place / "views" / "before.png", known, SHOWN_SIDE, image.size)
        folders = [place, given.parent, *(run.folder for run in self.runs.values())]
        files = [*answer.restored, *([answer.degraded] if answer.degraded != given else [])]
        several = len(after) > 1
        return (
            (str(before), str(after[0])),
            gr.update(value=[str(path) for path in after] if several else None, visible=several),
            *(
                gr.update(value=None if file is None else str(file), visible=file is not None)
                for file in (answer.walk, answer.animation)
            ),
            [str(path) for path in files],
            "\n".join(public_text(note, folders) for note in answer.notes),
        )


def restore_function(actions: Actions) -> Callable[..., tuple[Any, ...]]:
    """The function of the button; not a method, since gradio finds the progress among its defaults."""
    import gradio as gr

    def restored(
        file: str | None, name: str, nfe: float | None, sampler: str, seed: float | None, samples: float | None,
        first: str, ops: str, editor: Any, walk: bool, format: str,
        progress: Any = gr.Progress(),  # noqa: B008 - gradio finds it there
    ) -> tuple[Any, ...]:  # fmt: skip
        with actions.errors(Path(file or ".").parent):
            given = _given(file)
            request = Request(
                nfe=number("NFE", nfe),
                sampler="" if sampler == OWN else sampler,
                seed=number("seed", seed),
                samples=number("samples", samples),
                degrade=first == RECIPE,
                ops=ops if first == OPERATORS else "",
                layers=[] if editor is None else editor["layers"],
                walk=walk,
                format=None if format == SAME else format,
            )
            return actions.results(
                given, name, request, lambda done, total: progress((done, total), unit="network calls")
            )

    return restored


def _given(file: str | None) -> Path:
    if file is None:
        raise UserError("no picture yet: upload one or pick an example")
    return Path(file)


def number(name: str, value: float | None) -> int:
    """The value of a number field.

    Raises:
        UserError: The field is empty.
    """
    if value is None:
        raise UserError(f"{name}: the field is empty; give a number")
    return int(value)


def public_text(text: str, folders: Iterable[Path] = ()) -> str:
    """A message without the paths of the server: of a file only its name remains.

    Args:
        text: The message.
        folders: Folders of the server that may hold spaces.
    """
    text = re.sub(r"'/[^']*/([^'/]*)'", r"'\1'", text)
    text = re.sub(r"'/[^']*$", "...", text)  # a library's message, cut within a path
    for folder in sorted({str(folder) for folder in folders}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "").replace(folder, Path(folder).name)
    return re.sub(r"(?<![\w.:/<])/(?:[^/\s:'\"]+/)+", "", text)
