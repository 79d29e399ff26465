"""Experiment trackers: TensorBoard, Weights & Biases, Trackio and MLflow, through accelerate's classes.

metrics.jsonl stays the source of truth: a tracker gets a copy of what is written there, and its failure does not end
the training. Without `train.track` none of these packages is imported.
"""

import importlib.util
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from i2i_bridge.errors import UserError, one_line
from i2i_bridge.storage.files import refuse_links, write_whole
from i2i_bridge.storage.internet import is_offline
from i2i_bridge.storage.reader import read_json
from i2i_bridge.storage.toml import dotted

TRACKERS_FILE = "trackers.json"
"""File with the run identifier and the last step of each tracker, by which a resumed training continues them."""
IDENTIFIER = re.compile(r"[0-9A-Za-z_-]{1,64}")
NOT_TRACKED = ("step", "steps", "seconds_left")
"""Numbers of a row that are not sent."""
PROJECT = "i2i-bridge"
"""Project, or experiment, of the runs; WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME give another."""


def check_trackers(names: Iterable[str]) -> None:
    """Check that the packages of trackers are installed, without importing them.

    Raises:
        UserError: One is missing, or accelerate is too old for it; the message says how to install it.
    """
    for name in names:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if importlib.util.find_spec(name) is None or name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f'train.track: {name} is not installed: pip install "i2i-bridge[{name}]"')


class Trackers:
    """The trackers of a run, which continue their runs when the training is resumed.

    Args:
        names: Of `train.track`.
        folder: The run folder. TensorBoard's and, unless MLFLOW_TRACKING_URI is set, MLflow's files lie in it.
        settings: The recipe as a table, for trackers that show settings.
        after_step: The step that the training resumes at.
        logged: The last step of metrics.jsonl before it was cut to `after_step`: up to there the trackers have rows.
        report: Receives one line for each tracker that fails.
    """

    def __init__(
        self,
        names: Iterable[str],
        folder: Path,
        settings: dict[str, Any],
        *,
        after_step: int,
        logged: int,
        report: Callable[[str], None],
    ) -> None:
        self._folder, self._report = folder, report
        self._trackers: dict[str, Any] = {}
        self._sent: dict[str, int] = {}
        records = _records(folder / TRACKERS_FILE)
        for name in dict.fromkeys(names):
            known = records.get(name)
            # The tracker has the rows up to `sent` already: a resumed run computes the same numbers again.
            sent = 0 if known is None else max(known["step"], logged)
            with self._guarded(name):
                tracker, run = _started(name, folder, settings, None if known is None else known["run"], after_step)
                self._trackers[name] = tracker
                self._sent[name] = after_step if name == "tensorboard" else sent
                records[name] = {"run": run, "step": sent}
        if self._trackers:
            try:
                write_whole(folder / TRACKERS_FILE, (json.dumps(records, indent=1) + "\n").encode())
            except UserError as error:  # not raised: it occurs on rank 0 alone, and the other ranks would wait
                report(f"note: {error}; training continues, a resumed one starts new runs of the trackers")

    def log(self, row: dict[str, Any]) -> None:
        """Send the numbers of a row of metrics.jsonl."""
        values = {
            key: value
            for key, value in row.items()
            if key not in NOT_TRACKED and isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._send(row["step"], lambda name, tracker: tracker.log(values, step=row["step"]))

    def picture(self, file: Path, pixels: np.ndarray, step: int) -> None:
        """Send a sample picture, (H, W, 3) uint8, that `file` holds."""

        def send(name: str, tracker: Any) -> None:
            if name == "mlflow":
                tracker.log_artifact(str(file), "samples")
            elif name == "trackio":
                import trackio

                tracker.log({"samples": trackio.Image(pixels)}, step=step)
            else:
                layout = {"dataformats": "NHWC"} if name == "tensorboard" else {}
                tracker.log_images({"samples": pixels[None]}, step=step, **layout)

        self._send(step, send)

    def finish(self) -> None:
        """Close the trackers."""
        for name, tracker in list(self._trackers.items()):
            with self._guarded(name):
                tracker.finish()
        self._trackers = {}

    def _send(self, step: int, send: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            if step > self._sent[name]:
                with self._guarded(name):
                    send(name, tracker)

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Context in which an error of a tracker ends that tracker, and is reported once."""
        try:
            yield
        except Exception as error:  # another package's, for example of its network
            self._trackers.pop(name, None)
            reason = one_line(f"{type(error).__name__}: {error}")
            self._report(f"note: tracker {name} failed and gets nothing more ({reason}); training continues")


def _started(name: str, folder: Path, settings: dict[str, Any], run: str | None, after_step: int) -> tuple[Any, str]:
    """A started tracker, and the identifier of its run.

    Args:
        run: The run to continue; None for a new one.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    identifier = run or uuid.uuid4().hex
    options: dict[str, Any]
    if name == "tensorboard":
        refuse_links(folder, [name])
        # TensorBoard shows no earlier events of these steps: a resumed training writes them again.
        purge = after_step + 1 if (folder / name).exists() else None
        options = {"run_name": name, "logging_dir": str(folder), "purge_step": purge}
    elif name == "wandb":
        # Offline unless the user asks for more: wandb.init would connect, or ask for a key.
        mode = "offline" if is_offline() else os.environ.get("WANDB_MODE", "offline")
        options = {"run_name": os.environ.get("WANDB_PROJECT", PROJECT), "id": identifier, "name": folder.name}
        options |= {"resume": "allow", "dir": str(folder), "config": settings, "mode": mode}
        options["settings"] = {"console": "off", "silent": True}
    elif name == "trackio":
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        title = f"{settings['name']}-{identifier[:8]}"
        options = {"run_name": PROJECT, "name": title, "resume": "allow", "config": settings}
    else:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.absolute() / 'mlflow.db'}")
        options = {"experiment_name": PROJECT, "run_id": run, "run_name": folder.name}
        if uri.startswith("sqlite:"):
            options["logging_dir"] = (folder.absolute() / "mlflow").as_uri()
        _use_mlflow(uri)
    tracker: Any = LOGGER_TYPE_TO_CLASS[name](**options)
    tracker.start()
    if name != "mlflow":
        return tracker, identifier
    if run is None:  # MLflow refuses a parameter that changes, as `train.steps` of a resumed run may
        tracker.store_init_configuration({key: value for key, value in dotted(settings) if value is not None})
    return tracker, tracker.tracker.info.run_id


def _use_mlflow(uri: str) -> None:
    """Point MLflow to a store, without its change of the environment: a later run of this process would use it too."""
    import mlflow

    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if given is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def _records(file: Path) -> dict[str, dict[str, Any]]:
    """The records of TRACKERS_FILE; those that are unreadable are left out, so that their trackers start new runs."""
    try:
        records = read_json(file)
    except (OSError, ValueError):
        return {}
    return {
        name: {"run": record["run"], "step": record["step"]}
        for name, record in (records if isinstance(records, dict) else {}).items()
        if isinstance(record, dict)
        and IDENTIFIER.fullmatch(str(record.get("run")))
        and type(record.get("step")) is int
        and 0 <= record["step"] < 2**63
    }
