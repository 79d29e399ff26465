"""`restore` by several worker processes: the same results, and what a lost process or a signal leaves."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import interpreter
import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import UserError, load_run, plugins
from i2i_bridge.runs import workers, workload
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.runs.workers import imap_unordered


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch):
    """Without the plug-ins of other tests in this process, which workers would import again."""
    monkeypatch.setattr(plugins, "_files", [])


@pytest.fixture(autouse=True)
def _forked(monkeypatch):
    """Workers of functions are forked from a server with torch; those of the command are started afresh."""
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda method: interpreter.SERVER)


@pytest.fixture(scope="module")
def run():
    return load_run("pretrained/photos", device="cpu", sample=["sample.clip=true"])


def photos(folder, **sizes):
    """Noise of the given height and width, by name."""
    for seed, (name, size) in enumerate(sizes.items()):
        file = folder / f"{name.replace('__', '/')}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return folder


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def seen(outcome, out, said, steps):
    """All that one sees of a restored folder; the record's lines in any order."""
    there = files(out)
    done = {line for line in there.pop(".i2i-bridge-done.jsonl").splitlines() if line}
    lines = [line.replace(str(out), "OUT") for line in outcome.problems + outcome.notes]
    return there, done, outcome.written, outcome.nfe, lines, said, steps


@pytest.mark.parametrize("tile", [None, 32])
def test_the_results_do_not_depend_on_the_processes(run, tmp_path, monkeypatch, tile):
    """Bytes, notes, problems, record and progress; a bad image in the middle, and one that is tiled by itself."""
    # kills: workers-open-another-run, workers-forget-the-tiles, workers-forget-the-automatic-tile, worker-notes-lost
    # kills: worker-images-not-recorded
    source = photos(tmp_path / "in", a=(20, 40), sub__b=(72, 90), c=(16, 16), d=(40, 24))
    (source / "b.png").write_bytes(b"nothing")
    frames = [Image.fromarray(np.full((24, 24, 3), value, np.uint8)) for value in (50, 90)]
    frames[0].save(source / "e.webp", save_all=True, append_images=frames[1:], lossless=True)
    # The largest image would not fit whole, and two processes with the others or a tile do.
    monkeypatch.setattr(workload, "free_memory", lambda device: 10**11)
    monkeypatch.setattr(workload, "HEAVY", 10**8)
    monkeypatch.setattr(workload, "TILES", (32,))
    monkeypatch.setattr(workload, "probed", lambda run, factor: workload.Probe(seconds=1e-3, memory=1.5e7))
    used = run if tile is None else run.tiled(tile, 8, batch=2)
    results, threads = [], torch.get_num_threads()
    for jobs in (1, 2):
        torch.set_num_threads(jobs)  # one for each process
        out, said, steps = tmp_path / f"out-{jobs}", [], []
        outcome = restore_files(
            used, source, out, jobs=jobs, nfe=2, samples=2, seed=5, trajectory=True, format="png",
            say=said.append, report=lambda *step, steps=steps: steps.append(step),
        )  # fmt: skip
        results.append(seen(outcome, out, said, steps))
    torch.set_num_threads(threads)
    assert results[0] == results[1]
    written, nfe, lines, said, steps = results[1][2:]
    assert (written, nfe) == (10, 2) and steps == [(k + 1, 6) for k in range(6)]
    assert "b.png: not a readable image" in lines[0] and "only the first is restored" in lines[1] and len(lines) == 2
    assert any("1 of the images are restored in tiles of 32x32" in line for line in said) == (tile is None)


def test_as_many_processes_as_fit(run, tmp_path, monkeypatch):
    # kills: processes-whatever-the-memory
    source = photos(tmp_path / "in", a=(64, 64), b=(40, 40))
    images = sorted(source.iterdir())
    monkeypatch.setattr(workload, "probed", lambda run, factor: workload.Probe(seconds=1e-3, memory=1e6))
    monkeypatch.setattr(workload, "_own_memory", lambda: 1e9)
    monkeypatch.setattr(workload, "free_memory", lambda device: 10**10)
    monkeypatch.setattr(workload, "HEAVY", 2e6)
    # 4.1 GB for the larger image and 1 GB for the process: one of them in 0.8 of 10 GB, three in 0.8 of 20.
    work = workload.workload_of(run, images, nfe=1, jobs=2)
    assert work.jobs == 1 and work.line is None
    assert work.jobs_line == "--jobs 1 instead of 2: each process takes at least 5.1 GB of 10 GB free"
    monkeypatch.setattr(workload, "free_memory", lambda device: 2 * 10**10)
    assert workload.workload_of(run, images, nfe=1, jobs=4).jobs == 3
    monkeypatch.setattr(workload, "free_memory", lambda device: None)
    assert workload.workload_of(run, images, nfe=1, jobs=4) == workload.Workload(jobs=4)
    monkeypatch.setattr(workload, "free_memory", lambda device: 10**10)
    said = []
    assert restore_files(run, source, tmp_path / "out", nfe=1, jobs=2, say=said.append).written == 2
    assert said == [work.jobs_line]


def test_what_makes_no_sense_is_refused(run, tmp_path):
    source = photos(tmp_path / "in", a=(16, 16), b=(16, 16))
    restore = partial(restore_files, source=source, target=tmp_path / "out", nfe=1)
    with pytest.raises(UserError, match="jobs 0: give 1 or more"):
        restore(run, jobs=0)
    with pytest.raises(UserError, match="worker processes compute on the CPU, and this run on cuda:0"):
        restore(dataclasses.replace(run, device=torch.device("cuda:0")), jobs=2)
    with pytest.raises(UserError, match="not one that load_run opened"):
        restore(dataclasses.replace(run, options=None), jobs=2)
    assert not (tmp_path / "out").exists()


def test_changed_weights_are_not_those_of_the_folder(tmp_path):
    """The processes open the folder: a run that was changed since would restore otherwise there."""
    # kills: workers-trust-the-folder
    run = load_run("pretrained/photos", device="cpu")
    with torch.no_grad():
        next(run.method.network.parameters()).add_(1e-3)
    source = photos(tmp_path / "in", a=(16, 16), b=(16, 16))
    with pytest.raises(UserError, match="holds other weights or settings than the run that was opened before"):
        restore_files(run, source, tmp_path / "out", nfe=1, jobs=2)
    assert not (tmp_path / "out").exists() and not multiprocessing.active_children()


def opened(folder):
    """In a worker process: a function whose tasks wait for one another, are killed, or fail."""

    def work(task):
        if task == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "fails":
            raise ValueError("no task")
        if task == "waits":  # until the other process has done all the rest
            while not (folder / "last").exists():
                time.sleep(0.01)
        (folder / task).touch()
        return os.getpid(), torch.get_num_threads()

    return work


def test_tasks_go_to_whoever_is_free(tmp_path):
    """One process waits while the other does all the rest; each has its threads."""
    # kills: workers-take-all-threads; tasks dealt in advance
    tasks = ["waits", "a", "b", "c", "last"]
    given = partial(opened, tmp_path)
    results = dict(imap_unordered(tasks, given, workers=2, threads=3, clean=lambda task, process: None))
    assert results.keys() == set(tasks) and {threads for _, threads in results.values()} == {3}
    others = {process for task, (process, _) in results.items() if task != "waits"}
    assert len(others) == 1 and results["waits"][0] not in others
    assert not multiprocessing.active_children()


def test_a_lost_process_loses_one_task(tmp_path):
    """The other takes the rest; with all lost, the rest is not done. An error ends all."""
    # kills: lost-task-not-said
    given, cleaned = partial(opened, tmp_path), []
    options = {"workers": 2, "threads": 1, "clean": lambda task, process: cleaned.append(task)}
    results = list(imap_unordered(["dies", "a", "b", "dies", "c"], given, **options))
    lost = [answer.how for task, answer in results if task == "dies"]
    assert len(lost) == 2 and all("was killed, as a system does that is out of memory" in how for how in lost)
    assert {task for task, _ in results} == {"a", "b", "dies"} and cleaned == ["dies", "dies"]
    with pytest.raises(ValueError, match="no task"):
        list(imap_unordered(["fails", "waits"], given, **options))
    assert not multiprocessing.active_children()


COMMAND = [sys.executable, "-u", "-m", "i2i_bridge.cli", "restore", "pretrained/photos", "in", "out", "--device", "cpu"]


def started(folder, *options):
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=folder,
        start_new_session=True,
        # Otherwise a test run in the background of a shell, which ignores Ctrl-C, would pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


KILLER = """
import multiprocessing, os, signal
from i2i_bridge.storage import files

class Dying:
    def __getattr__(self, name):
        return getattr(os, name)

    def replace(self, old, new, **folders):
        if new in ("a.png", "c.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        os.replace(old, new, **folders)

if multiprocessing.parent_process() is not None:
    files.os = Dying()
"""


def test_a_killed_process_costs_its_image_alone(tmp_path):
    """One line for each, no half-written file; what no process is left for is restored by the command itself."""
    # kills: partial-file-of-a-killed-process
    photos(tmp_path / "in", a=(64, 64), b=(48, 48), c=(40, 40), d=(32, 32), e=(24, 24))
    (tmp_path / "killer.py").write_text(KILLER)
    process = started(tmp_path, "--jobs", "2", "--nfe", "1", "--plugin", "killer.py")
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 2, lines
    errors = [line for line in lines if line.startswith("error: ")]
    assert [line.partition(": the worker process was killed")[0] for line in errors] == [
        "error: in/a.png",
        "error: in/c.png",
    ]
    assert lines[-1] == "wrote 3 images to out (1 network call each)"
    assert [line.partition(",")[0] for line in lines if line.startswith("restored ")] == [
        f"restored {k}/5" for k in range(1, 6)
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != ".i2i-bridge-done.jsonl") == [
        "b.png", "d.png", "e.png"
    ]  # fmt: skip


def members(group):
    """Processes of a process group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(stat.parent.name)
    return found


HOLDER = """
import multiprocessing, os, time
from i2i_bridge.storage import files

class Holding:
    def __getattr__(self, name):
        return getattr(os, name)

    def replace(self, old, new, **folders):
        if new in ("p10.png", "p11.png"):
            time.sleep(3600)
        os.replace(old, new, **folders)

if multiprocessing.parent_process() is not None:
    files.os = Holding()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes(tmp_path, number):
    """Ctrl-C of a terminal reaches all, SIGTERM the command: no process stays, and no result is half.

    Each process holds one of the last two images until it is killed.
    """
    # kills: workers-answer-ctrl-c
    photos(tmp_path / "in", **{f"p{k:02d}": (16, 16) for k in range(12)})
    (tmp_path / "holder.py").write_text(HOLDER)
    process = started(tmp_path, "--jobs", "2", "--nfe", "1", "--plugin", "holder.py")
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("restored 10/12"):
            break
    assert process.poll() is None, seen
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    rest = process.stdout.read()  # ends when no process holds the other end
    code = process.wait()
    limit = time.monotonic() + 600
    while members(process.pid) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not members(process.pid)
    out = [path for path in (tmp_path / "out").iterdir() if path.suffix == ".png"]
    assert sorted(path.stem for path in out) == [f"p{k:02d}" for k in range(10)]
    for path in out:
        Image.open(path).load()
    assert "Traceback" not in rest, rest
    if number == signal.SIGINT:
        assert code == 130
        assert not list((tmp_path / "out").glob(".*.part"))
        recorded = (tmp_path / "out" / ".i2i-bridge-done.jsonl").read_text().count('"name"')
        assert recorded == 10
    else:
        assert code == -number


BUSY = """
import os, signal, time
from i2i_bridge.runs.workers import imap_unordered

def work(task):
    print(os.getpid(), flush=True)
    time.sleep(3600)

def opened():
    return work

if __name__ == "__main__":
    list(imap_unordered(["task"], opened, workers=1, threads=1, clean=lambda task, process: None))
"""


def test_a_busy_process_ends_with_the_command(tmp_path):
    """One that works on an image, and so does not read what it is sent."""
    # kills: workers-outlive-the-command
    (tmp_path / "busy.py").write_text(BUSY)
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        [sys.executable, "busy.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert int(process.stdout.readline()) != process.pid
        process.kill()
        process.wait()
        limit = time.monotonic() + 600
        while members(process.pid) and time.monotonic() < limit:
            time.sleep(0.05)
        assert not members(process.pid)
    finally:
        for left in members(process.pid):
            os.kill(int(left), signal.SIGKILL)
