"""The elements of the page and how they are connected to their actions."""

from collections.abc import Mapping
from typing import Any

from i2i_bridge.app.actions import NOTHING, OPERATORS, OWN, RECIPE, SAME, Actions, restore_function
from i2i_bridge.app.limits import Limits
from i2i_bridge.app.pictures import needs_mask
from i2i_bridge.images.outputs import FORMATS
from i2i_bridge.registry import SAMPLERS


def build_page(actions: Actions) -> Any:
    """The page, a `gradio.Blocks`, whose elements do what `actions` says."""
    import gradio as gr

    with gr.Blocks(title="i2i_bridge", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# i2i_bridge\nA diffusion bridge walks from a degraded picture X_1 to a clean one X_0. Upload a picture, "
            "drop it, paste it (Ctrl-V) or pick an example."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                parts = _picture_part(actions)
                parts |= _degradation_part(actions.limits)
                parts["editor"] = _mask_part(is_open=any(needs_mask(run) for run in actions.runs.values()))
                parts |= _sampling_part(actions.limits)
            with gr.Column(scale=3, min_width=320):
                results = _result_part()
        _connect(actions, parts, results)
    return page.queue(max_size=actions.limits.waiting, default_concurrency_limit=1, api_open=False)


def _picture_part(actions: Actions) -> dict[str, Any]:
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


def _connect(actions: Actions, parts: Mapping[str, Any], results: list[Any]) -> None:
    """Give each element its action; one is computed at a time."""
    private = {"api_visibility": "private", "concurrency_id": "work", "concurrency_limit": 1}

    def named(names: str) -> list[Any]:
        return [parts[name] for name in names.split()]

    parts["example"].input(actions.picked, parts["example"], parts["file"], **private)
    parts["file"].change(actions.uploaded, named("file run"), named("seen editor"), **private)
    parts["run"].change(actions.chosen, parts["run"], named("nfe run"), **private)
    parts["apply"].click(actions.degraded, named("file run ops seed"), named("seen degraded"), **private)
    given = named("file run nfe sampler seed samples first ops editor walk format")
    parts["go"].click(restore_function(actions), given, results, **private)
