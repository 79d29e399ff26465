"""The server of the page: `i2i-bridge app`."""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from i2i_bridge.app.actions import Actions
from i2i_bridge.app.limits import DEFAULT_LIMITS, Limits, decoded_pixels
from i2i_bridge.app.page import build_page
from i2i_bridge.app.pictures import example_files
from i2i_bridge.errors import UserError
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.run import Run
from i2i_bridge.storage import internet

EXTRA = "pip install 'i2i-bridge[app]'"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
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


def run_names(runs: Sequence[str]) -> list[str]:
    """A name for each run: its folder's, with a number where two are the same."""
    names: list[str] = []
    for run in runs:
        name = Path(run).name or "run"
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


@contextmanager
def open_page(
    runs: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
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
        addresses = internet.addresses(host)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: no address of this machine ({error}); try --host 127.0.0.1") from error

    opened = _opened_runs(runs, device, backend, say)
    pictures = example_files(examples)
    with tempfile.TemporaryDirectory(prefix="i2i-bridge-app-") as temporary:
        # Read by gradio: the folder of its copies of pictures, and no telemetry.
        os.environ |= {"GRADIO_TEMP_DIR": f"{temporary}/cache", "GRADIO_ANALYTICS_ENABLED": "False"}
        results = Path(temporary, "results")
        results.mkdir()
        # A visitor could otherwise make gradio fetch an address.
        with decoded_pixels(limits.pixels), internet.closed(addresses):
            page = build_page(Actions(opened, results, limits, pictures, say))
            address = _launched(page, host, port, limits)
            try:
                yield address
            finally:
                page.close(verbose=False)


def _opened_runs(runs: Sequence[str], device: str | None, backend: str, say: Callable[[str], None]) -> dict[str, Run]:
    """The runs by the names that are shown; a run that needs more than a picture is refused."""

    def note(line: str) -> None:
        say(f"note: {line}")

    loaded = (load_run(run, device=device, backend=backend, report=note) for run in runs)
    opened = dict(zip(run_names(runs), loaded, strict=True))
    for name, run in opened.items():
        if run.recipe.classes or run.recipe.data.own_condition:
            needed = "a label" if run.recipe.classes else "a condition image"
            raise UserError(f"{name}: needs {needed} beside each picture, which this page does not take")
    return opened


def _launched(page: Any, host: str, port: int | None, limits: Limits) -> str:
    """Launch a `gradio.Blocks` without telemetry and without resources of other machines; return its address."""
    import gradio as gr
    from starlette.middleware import Middleware

    try:
        _, address, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,  # IPv6, as in addresses
            server_port=port,
            max_file_size=limits.megabytes * 10**6,
            allowed_paths=[],
            theme=gr.themes.Default(primary_hue="blue"),
            head=PASTE,
            app_kwargs={"middleware": [Middleware(_Headers)], "docs_url": None, "redoc_url": None, "openapi_url": None},
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
        )
    except OSError as error:
        raise UserError(f"{host}, port {port or '7860 to 7959'}: cannot listen ({error}); try --port") from error
    return str(address)


def serve(runs: Sequence[str], *, say: Callable[[str], None] = print, **options: Any) -> None:
    """Serve the page until Ctrl-C; the arguments are those of `open_page`."""
    import threading

    with open_page(runs, say=say, **options) as address:
        say(f"{address} (stop with Ctrl-C)")
        threading.Event().wait()
