"""The page of `i2i-bridge app`: restore an uploaded picture with trained runs, in a browser.

The first half is what the page computes, without gradio. This file is also the `app.py` of a Hugging Face Space, whose
variable I2I_APP_RUNS names the runs.
"""

import html
import importlib.util
import os
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from i2i_bridge.data.sources.packaged import PackagedImages
from i2i_bridge.degradations.files import degrade_files, parse_op
from i2i_bridge.errors import UserError, located
from i2i_bridge.images.files import image_size, read_picture, write_picture
from i2i_bridge.images.folder import find_images
from i2i_bridge.images.outputs import FORMATS
from i2i_bridge.images.pixels import Picture, Range, opaque, shown, to_tensor, visible
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.registry import SAMPLERS
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.runs.run import Run, load_run, resampled
from i2i_bridge.storage import internet
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.shipped import recipe_of_run

EXTRA = "pip install 'i2i-bridge[app]'"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EXAMPLES = (
    "skimage:data/chelsea.png",
    "skimage:data/coffee.png",
    "skimage:data/astronaut.png",
    "sklearn:datasets/images/flower.jpg",
    "sklearn:datasets/images/china.jpg",
)
"""Photos inside the packages of the extra `demo`, shown as examples where those are installed."""
SHOWN_SIDE, WALK_SIDE, ANIMATION_SIDE, EDITOR_SIDE = 1600, 3200, 640, 768
"""Longest side in pixels of pictures, of the walk and its animation, and of the mask editor on the page; downloads have
all pixels."""
MASK_OPTIONS = ("folder", "file")
"""Options of degradations that name files, which would be files of the server."""


@dataclass(frozen=True)
class Limits:
    """The most that one request may ask for."""

    pixels: int = 4_000_000
    """Pixels of a picture, and of the restored one if the task enlarges."""
    megabytes: int = 32
    """Size of an uploaded file."""
    nfe: int = 100
    samples: int = 4
    waiting: int = 16
    """Requests in the queue; one is computed at a time."""
    operators: bool = True
    """Whether visitors may apply degradations of their own."""


@dataclass(frozen=True)
class Request:
    """The settings of a restoration, as the page has them."""

    nfe: int | None = None
    sampler: str = ""
    """A sampler's name; empty: the run's own."""
    seed: int = 0
    samples: int = 1
    degrade: bool = False
    """Apply the degradation of the run's recipe first."""
    ops: str = ""
    """Degradations to apply first, `name:key=value,...`, one per line."""
    layers: Sequence[np.ndarray] = ()
    """Painted layers (H, W, 4) uint8; opaque = unknown."""
    walk: bool = True
    format: str | None = None


@dataclass(frozen=True)
class Answer:
    """The files that a restoration made."""

    degraded: Path
    """The picture that was restored."""
    restored: list[Path]
    """The samples."""
    walk: Path | None
    """The states from X_1 to X_0 of the first sample, scaled down for the page."""
    animation: Path | None
    """These states one after the other."""
    notes: list[str]


def restore_picture(
    run: Run,
    file: Path,
    request: Request,
    folder: Path,
    limits: Limits,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Answer:
    """Restore an uploaded file as `i2i-bridge restore` does; the results have its depth, alpha and profile.

    Args:
        run: The run that restores.
        file: The uploaded file.
        request: The settings.
        folder: An empty folder for the results.
        limits: The most that a visitor may ask for.
        report: Called with (network calls done, network calls in all).

    Raises:
        UserError: A limit is passed, a setting is wrong, or `restore_files` refuses the file.
    """
    for name, value, most in (("NFE", request.nfe or 1, limits.nfe), ("samples", request.samples, limits.samples)):
        if not 1 <= value <= most:
            raise UserError(f"{name} {value}: this page takes 1 to {most}")
    run = with_sampler(run, request.sampler)
    if request.ops.strip() and request.degrade:
        raise UserError("choose the run's own degradation or operators, not both")
    scale = 1 if request.degrade else _scale(run)
    check_size(file, limits, scale)
    notes: list[str] = []
    source, hole = file, None
    if request.ops.strip():
        source, hole = degrade_picture_file(file, request.ops, request.seed, folder / "degraded", limits)
    painted = mask_file(request.layers, source, scale, folder / "mask.png")
    if painted is not None and request.degrade:
        notes.append("the painted mask is not used: the run's own degradation draws one where it needs one")
    outcome = restore_files(
        run,
        source,
        folder / "restored",
        nfe=request.nfe,
        samples=request.samples,
        seed=request.seed,
        mask=None if request.degrade else painted or hole,
        degrade=request.degrade,
        trajectory=request.walk,
        trajectory_side=WALK_SIDE,  # several states of the largest picture are more pixels than the page takes
        animation_side=ANIMATION_SIDE if request.walk else None,
        format=request.format,
        report_calls=report,
        report_tiles=report,
        say=notes.append,
    )
    (job,) = outcome.jobs
    return Answer(
        job.outputs.get("-degraded", source),
        [job.outputs[ending] for ending in job.results],
        job.outputs.get(f"{job.results[0]}-trajectory"),
        job.outputs.get(f"{job.results[0]}-animation"),
        [f"{outcome.nfe} network call{'s' * (outcome.nfe != 1)} for each sample", *notes, *outcome.notes],
    )


def check_size(file: Path, limits: Limits, scale: int = 1) -> None:
    """Refuse a picture with more pixels than the page takes, by the file's header where it has one.

    Raises:
        UserError: It has more, or is not a readable picture.
    """
    height, width = image_size(file)
    if height * width * scale**2 > limits.pixels:
        enlarged = f" ({width * scale}x{height * scale} when restored)" if scale > 1 else ""
        raise UserError(
            f"{file}: {width}x{height} pixels{enlarged}; this page takes {limits.pixels / 1e6:.3g} million, and "
            "`i2i-bridge restore` takes more"
        )


def with_sampler(run: Run, sampler: str) -> Run:
    """The run with another sampler and its default options; the weights are shared.

    Raises:
        UserError: There is no such sampler, or it does not fit the run's process.
    """
    if not sampler:
        return run
    if sampler == run.recipe.sample.sampler["name"]:
        return replace(run, tuned=None, tuned_methods={})
    SAMPLERS.require(sampler)
    recipe = load_recipe(recipe_of_run(run.folder), [f'sample.sampler={{name="{sampler}"}}'])
    return replace(run, recipe=recipe, method=resampled(run.method, recipe), tuned=None, tuned_methods={})


def degrade_picture_file(file: Path, ops: str, seed: int, folder: Path, limits: Limits) -> tuple[Path, Path | None]:
    """Apply degradations as `i2i-bridge degrade` does; the degraded file, and the mask's if there is one.

    Args:
        file: The clean picture.
        ops: `name:key=value,...`, one per line.
        seed: Of all draws.
        folder: For the results.
        limits: The most that a visitor may ask for.

    Raises:
        UserError: A degradation is wrong or names a file, or the picture cannot be degraded.
    """
    if not limits.operators:
        raise UserError("this page applies no operators (--no-operators)")
    check_size(file, limits)
    tables = [parse_op(line.strip()) for line in ops.splitlines() if line.strip()]
    for table in tables:
        _refuse_files(table)
    outputs = degrade_files(tables, file, folder, seed=seed).jobs[0].outputs
    return outputs[""], outputs["-mask"] if outputs["-mask"].is_file() else None


def _refuse_files(value: Any) -> None:
    # Otherwise a visitor could read masks, or learn names, of the server's files.
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in MASK_OPTIONS:
                raise UserError(f"'{key}' names a file of the server; this page takes none")
            _refuse_files(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_files(inner)
    elif isinstance(value, str) and re.search(r"[/\\~]", value):
        raise UserError("an operator's option looks like a path; this page takes none")


def mask_file(layers: Sequence[np.ndarray], file: Path, scale: int, result: Path) -> Path | None:
    """Write the mask of painted layers, white = unknown, in the size of the restored picture.

    Args:
        layers: Arrays (H, W, 4) uint8; a pixel is unknown if any layer is more than half opaque there.
        file: The picture; (H, W) of the layers may differ from its size, and is scaled to it.
        scale: Ratio of the restored picture's size to the picture's.
        result: The file to write.

    Returns:
        `result`, or None if nothing was painted.
    """
    painted = [layer[..., 3] > 127 for layer in layers]
    if not any(layer.any() for layer in painted):
        return None
    height, width = (side * scale for side in image_size(file))
    unknown = np.zeros((height, width), bool)
    for layer in painted:
        scaled = Image.fromarray(layer).resize((width, height), Image.Resampling.NEAREST)
        unknown |= np.asarray(scaled)
    write_picture(result, Picture((unknown[..., None] * 255).astype(np.uint8)))
    return result


def view(file: Path, result: Path, value_range: Range, side: int, size: tuple[int, int] | None = None) -> Path:
    """Write a picture for the browser, as an 8-bit PNG with its profile.

    Args:
        file: The picture.
        result: The PNG.
        value_range: Values of black and white of floats.
        side: Longest side in pixels; a larger picture is scaled down.
        size: (width, height) to scale to instead.

    Raises:
        UserError: The picture cannot be read, or its values have no known range.
    """
    picture = read_picture(file, metadata=True)
    with located(file):
        whole = picture.alpha is not None and picture.pixels.dtype.kind == "u"
        pixels = opaque(picture) if whole else visible(picture)
        image = Image.fromarray(shown(to_tensor(pixels, value_range)))
    if size is None:
        factor = min(side / max(image.size), 1)
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    colour = picture.pixels.shape[2] == 3
    result.parent.mkdir(parents=True, exist_ok=True)
    image.save(result, icc_profile=picture.metadata.profile_for(3) if colour else None)
    return result


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


def number(name: str, value: float | None) -> int:
    """The value of a number field.

    Raises:
        UserError: The field is empty.
    """
    if value is None:
        raise UserError(f"{name}: the field is empty; give a number")
    return int(value)


def run_names(runs: Sequence[str]) -> list[str]:
    """A name for each run: its folder's, with a number where two are the same."""
    names: list[str] = []
    for run in runs:
        name = Path(run).name or "run"
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def example_files(folder: Path | None) -> dict[str, Path]:
    """Example pictures by name: those of a folder, or photos of installed packages."""
    if folder is not None:
        return {str(file.relative_to(folder)): file for file in find_images(folder)}
    found: dict[str, Path] = {}
    for name in EXAMPLES:
        try:
            file = PackagedImages([], [name], "val").files[0][1]
        except UserError:  # not installed
            continue
        found[file.stem] = file
    return found


def copied(file: Path, folder: Path) -> Path:
    """Copy an example to a folder of results; gradio serves no file of an installed package."""
    write_whole(folder / file.name, file.read_bytes())
    return folder / file.name


def _scale(run: Run) -> int:
    degradation = run.recipe.build_degradation()
    return (run.recipe.data.factor or 1) * (1 if degradation is None else degradation.scale)


# ---- the page

PASTE = """<script>
document.addEventListener("paste", event => {
  const file = [...(event.clipboardData?.files || [])].find(item => item.type.startsWith("image/"));
  const box = document.getElementById("picture");
  if (!file || !box) return;
  const clear = [...box.querySelectorAll("button")].find(button => /clear|remove/i.test(button.ariaLabel || ""));
  if (clear) clear.click();
  setTimeout(() => {
    const input = box.querySelector("input[type=file]"), list = new DataTransfer();
    list.items.add(file);
    input.files = list.files;
    input.dispatchEvent(new Event("change", {bubbles: true}));
  }, clear ? 400 : 0);
});
</script>"""
"""Pasted pictures go the way of uploaded files; gradio's own pasting would decode them first."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""The browser loads nothing from other machines."""
FOLDERS_KEPT = 8
"""Folders of results on the server's disk; gradio has copied those of a request when the next begins."""


class _Headers:
    """ASGI middleware that adds the content security policy."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
                headers = [(name.encode(), value.encode()) for name, value in added.items()]
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        await self.app(scope, receive, with_headers)


def require_gradio() -> None:
    """Check that the extra `app` is installed.

    Raises:
        UserError: It is not; the message has the command.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the web app needs the package gradio", command=EXTRA)


class _Actions:
    """What the page's elements do. Refusals are shown without paths; any other error is logged by the server.

    Args:
        runs: The runs by the names that are shown.
        folder: A folder for the results of requests.
        limits: The most that a visitor may ask for.
        examples: Pictures by name.
        report_error: Called with a line for an error that is not the visitor's.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        folder: Path,
        limits: Limits,
        examples: Mapping[str, Path],
        report_error: Callable[[str], None],
    ) -> None:
        self.runs, self.folder, self.limits, self.examples = runs, folder, limits, examples
        self.report_error, self.kept = report_error, deque[Any]()

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
        """Another run: its network calls, and the line about it."""
        import gradio as gr

        return gr.update(value=self.nfe(name)), gr.update(info=self.about(name))

    def picked(self, name: str | None) -> str | None:
        """Another example: its copy as the picture."""
        if name is None:
            return None
        with self.errors(self.examples[name].parent):
            return str(copied(self.examples[name], self.new_folder()))

    def uploaded(self, file: str | None, name: str) -> tuple[Any, Any]:
        """Another picture: what is shown of it, and what the mask is painted on."""
        if file is None:
            return None, None
        with self.errors(Path(file).parent):
            check_size(Path(file), self.limits)
            place, known = self.new_folder(), self.runs[name].recipe.data.value_range
            small = view(Path(file), place / "editor.png", known, EDITOR_SIDE)
            editor: dict[str, Any] = {"background": str(small), "layers": [], "composite": None}
            return str(view(Path(file), place / "picture.png", known, SHOWN_SIDE)), editor

    def degraded(self, file: str | None, name: str, ops: str, seed: float | None) -> tuple[Any, Any]:
        """The picture behind the operators: what is shown of it, and the file."""
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


def _restored(actions: _Actions) -> Callable[..., tuple[Any, ...]]:
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


def build_page(
    runs: Mapping[str, Run],
    folder: Path,
    limits: Limits,
    examples: Mapping[str, Path],
    report_error: Callable[[str], None],
) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
        runs: The runs by the names that are shown.
        folder: A folder for the results of requests.
        limits: The most that a visitor may ask for.
        examples: Pictures by name.
        report_error: Called with a line for an error that is not the visitor's.
    """
    import gradio as gr

    actions = _Actions(runs, folder, limits, examples, report_error)
    with gr.Blocks(title="i2i_bridge", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# i2i_bridge\nA diffusion bridge walks from a degraded picture X_1 to a clean one X_0. Upload a picture, "
            "drop it, paste it (Ctrl-V) or pick an example."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                parts = _picture_part(actions)
                parts |= _degradation_part(limits)
                parts["editor"] = _mask_part(is_open=any(needs_mask(run) for run in runs.values()))
                parts |= _sampling_part(limits)
            with gr.Column(scale=3, min_width=320):
                results = _result_part()
        _connect(actions, parts, results)
    return page.queue(max_size=limits.waiting, default_concurrency_limit=1, api_open=False)


def _picture_part(actions: _Actions) -> dict[str, Any]:
    """The picture, the run, its network calls, and the button."""
    import gradio as gr

    names, examples = list(actions.runs), list(actions.examples)
    file = gr.File(label="Picture", elem_id="picture", height=120)
    example = gr.Dropdown(examples, value=None, label="Example", visible=bool(examples), elem_id="example")
    seen = gr.Image(
        label="What is restored", elem_id="seen", interactive=False, type="filepath", height=260, buttons=["fullscreen"]
    )
    run = gr.Dropdown(names, value=names[0], label="Run", info=actions.about(names[0]), elem_id="run")
    nfe = gr.Slider(
        1, actions.limits.nfe, value=actions.nfe(names[0]), step=1, label="NFE: network calls", elem_id="nfe"
    )
    go = gr.Button("Restore", variant="primary", elem_id="restore")
    return {"file": file, "example": example, "seen": seen, "run": run, "nfe": nfe, "go": go}


def _degradation_part(limits: Limits) -> dict[str, Any]:
    """The degradation before restoring: the run's own, or the visitor's operators."""
    import gradio as gr

    ways = [NOTHING, RECIPE, *([OPERATORS] if limits.operators else [])]
    with gr.Accordion("Degrade it first", open=False, elem_id="degrade"):
        first = gr.Radio(ways, value=NOTHING, label="Before restoring", elem_id="first")
        ops = gr.Textbox(
            "jpeg:quality=10",
            lines=2,
            max_length=2000,
            label="Operators, one per line",
            info="name:key=value,key=value as in `i2i-bridge degrade --op`; `i2i-bridge list degradations`",
            visible=limits.operators,
            elem_id="ops",
        )
        with gr.Row(visible=limits.operators):
            apply = gr.Button("Show it degraded", size="sm", elem_id="apply")
            degraded = gr.DownloadButton("Download", size="sm", elem_id="degraded")
    return {"first": first, "ops": ops, "apply": apply, "degraded": degraded}


def _mask_part(is_open: bool) -> Any:
    """The editor on which a mask is painted."""
    import gradio as gr

    with gr.Accordion("Mask: paint what is unknown", open=is_open, elem_id="mask"):
        return gr.ImageEditor(
            label="Only what you paint is restored",
            elem_id="editor",
            type="numpy",
            sources=(),
            transforms=(),
            brush=gr.Brush(default_size=24, colors=["#e6007a"], color_mode="fixed"),
            layers=False,
            height=380,
            buttons=[],
        )


def _sampling_part(limits: Limits) -> dict[str, Any]:
    """Sampler, seed, samples, walk and format."""
    import gradio as gr

    with gr.Accordion("Sampling and format", open=False, elem_id="more"):
        return {
            "sampler": gr.Dropdown([OWN, *SAMPLERS.names()], value=OWN, label="Sampler", elem_id="sampler"),
            "seed": gr.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed", elem_id="seed"),
            "samples": gr.Slider(1, limits.samples, value=1, step=1, label="Samples", elem_id="samples"),
            "walk": gr.Checkbox(True, label="Show the walk from X_1 to X_0", elem_id="with-walk"),
            "format": gr.Dropdown([SAME, *FORMATS], value=SAME, label="Format of the download", elem_id="format"),
        }


def _result_part() -> list[Any]:
    """The elements that a restoration fills: slider, samples, walk, animation, downloads and notes."""
    import gradio as gr

    return [
        gr.ImageSlider(
            label="Degraded | restored", elem_id="slider", type="filepath", interactive=False, max_height=640,
            buttons=["fullscreen"],
        ),
        gr.Gallery(label="Samples", elem_id="gallery", visible=False, columns=2, buttons=["fullscreen"]),
        gr.Image(
            elem_id="walk", type="filepath", interactive=False, visible=False, show_label=False,
            buttons=["fullscreen"], alt_text="The walk from X_1 to X_0",
        ),
        gr.Image(
            elem_id="animation", type="filepath", interactive=False, visible=False, show_label=False,
            buttons=["fullscreen"], alt_text="The walk from X_1 to X_0 as an animation", height=320,
        ),
        gr.File(
            label="Download: depth, alpha and profile of the original", elem_id="files", height=120,
            file_count="multiple", interactive=False,
        ),
        gr.Textbox(label="Notes", elem_id="notes", interactive=False, lines=2),
    ]  # fmt: skip


def _connect(actions: _Actions, parts: Mapping[str, Any], results: list[Any]) -> None:
    """Give each element its action; one is computed at a time."""
    private = {"api_visibility": "private", "concurrency_id": "work", "concurrency_limit": 1}

    def named(names: str) -> list[Any]:
        return [parts[name] for name in names.split()]

    parts["example"].input(actions.picked, parts["example"], parts["file"], **private)
    parts["file"].change(actions.uploaded, named("file run"), named("seen editor"), **private)
    parts["run"].change(actions.chosen, parts["run"], named("nfe run"), **private)
    parts["apply"].click(actions.degraded, named("file run ops seed"), named("seen degraded"), **private)
    given = named("file run nfe sampler seed samples first ops editor walk format")
    parts["go"].click(_restored(actions), given, results, **private)


OWN, SAME = "the run's own", "as the original"
NOTHING, RECIPE, OPERATORS = "nothing", "the run's own degradation", "the operators below"


def needs_mask(run: Run) -> bool:
    """Whether the run's task is inpainting."""
    degradation = run.recipe.build_degradation()
    return degradation is not None and degradation.masked


def _given(file: str | None) -> Path:
    if file is None:
        raise UserError("no picture yet: upload one or pick an example")
    return Path(file)


@contextmanager
def decoded_pixels(limit: int) -> Iterator[None]:
    """Inside the block, Pillow refuses to decode pictures of more than twice `limit` pixels.

    Otherwise gradio would decode a mask of any size.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def open_page(
    runs: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: Limits = Limits(),
    examples: Path | None = None,
    device: str | None = None,
    backend: str = "eager",
    say: Callable[[str], None] = print,
) -> Iterator[str]:
    """Serve the page inside the block; yields its address.

    Args:
        runs: Run folders, or names of shipped runs.
        host: The address, or name, to listen on; by default only this machine can connect.
        port: By default the first free one from 7860.
        limits: The most that a visitor may ask for.
        examples: A folder of example pictures.
        device: As in `load_run`.
        backend: As in `load_run`.
        say: Called with a line for each note of `load_run`, and for each error that is not a visitor's.

    Raises:
        UserError: gradio is missing, a run cannot be opened, the host has no address, or the port is taken.
    """
    require_gradio()
    host = host.strip("[]")
    try:  # before the page refuses look-ups
        own = internet.addresses(host)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: no address of this machine ({error}); try --host 127.0.0.1") from error

    def note(line: str) -> None:
        say(f"note: {line}")

    loaded = (load_run(run, device=device, backend=backend, report=note) for run in runs)
    opened = dict(zip(run_names(runs), loaded, strict=True))
    for name, run in opened.items():
        if run.recipe.classes or run.recipe.data.own_condition:
            needed = "a label" if run.recipe.classes else "a condition image"
            raise UserError(f"{name}: needs {needed} beside each picture, which this page does not take")
    pictures = example_files(examples)
    with tempfile.TemporaryDirectory(prefix="i2i-bridge-app-") as temporary:
        # Read by gradio: its copies of pictures go there, and it reports nothing to its makers.
        os.environ |= {"GRADIO_TEMP_DIR": f"{temporary}/cache", "GRADIO_ANALYTICS_ENABLED": "False"}
        import gradio as gr
        from starlette.middleware import Middleware

        results = Path(temporary, "results")
        results.mkdir()
        # A visitor could otherwise make gradio fetch an address.
        with decoded_pixels(limits.pixels), internet.closed(own):
            page = build_page(opened, results, limits, pictures, say)
            try:
                _, address, _ = page.launch(
                    server_name=f"[{host}]" if ":" in host else host,  # IPv6, as in addresses
                    server_port=port,
                    max_file_size=limits.megabytes * 10**6,
                    allowed_paths=[],
                    theme=gr.themes.Default(primary_hue="blue"),
                    head=PASTE,
                    app_kwargs={
                        "middleware": [Middleware(_Headers)], "docs_url": None, "redoc_url": None, "openapi_url": None
                    },
                    footer_links=[],
                    inline=False,
                    inbrowser=False,
                    share=False,
                    show_error=False,
                    quiet=True,
                    prevent_thread_lock=True,
                    ssr_mode=False,
                    pwa=False,
                    mcp_server=False,
                    enable_monitoring=False,
                )  # fmt: skip
            except OSError as error:
                raise UserError(
                    f"{host}, port {port or '7860 to 7959'}: cannot listen ({error}); try --port"
                ) from error
            try:
                yield address
            finally:
                page.close(verbose=False)


def serve(runs: Sequence[str], *, say: Callable[[str], None] = print, **options: Any) -> None:
    """Serve the page until Ctrl-C; the arguments are those of `open_page`."""
    import threading

    with open_page(runs, say=say, **options) as address:
        say(f"{address} (stop with Ctrl-C)")
        threading.Event().wait()


if __name__ == "__main__":  # a Space, which says by these variables where to listen
    serve(
        os.environ.get("I2I_APP_RUNS", "pretrained/photos").split(),
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )
