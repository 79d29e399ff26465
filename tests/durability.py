"""What must hold of a checkpoint folder after every fault; `test_files.py` looks at a slice of it, `soak.py` at all."""

import contextlib
import hashlib
import json
import random
import shutil
from pathlib import Path

import torch
from faults import MODES, FailingOS, Killed, PowerOS, disk

from i2i_bridge.errors import UserError
from i2i_bridge.runs.checkpoint import latest_checkpoint, recovered_checkpoint, save_checkpoint


def parts(step):
    """A checkpoint whose every tensor says its step."""
    return {part: {"w": torch.full((7,), float(step))} for part in ("network", "ema", "optimizer")}


def save(folder, step, keep):
    return save_checkpoint(folder, step, parts(step), {"skipped": step}, keep)


def check(folder, allowed):
    """The newest checkpoint is one of `allowed` and whole to the last number."""
    found, damaged = latest_checkpoint(folder)
    assert found is not None and found.step in allowed, (found and found.step, allowed, damaged)
    assert damaged == [], damaged
    assert found.state == {"skipped": found.step}
    for part in parts(0):
        assert (found.tensors(part)["w"] == found.step).all()
    return found.step


def start(scratch, keep):
    """Checkpoints up to step `keep`, and the leftovers of a save that was killed before."""
    folder = scratch / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    template = scratch / f"template-{keep}"
    if not template.is_dir():
        with disk(FailingOS()):
            for step in range(1, keep + 1):
                save(template, step, keep)
        for name in (".tmp-step-00000009-1", ".dead-step-00000000-1"):
            (template / name).mkdir()
            (template / name / "network.safetensors").write_bytes(b"half")
    shutil.copytree(template, folder)
    return folder


def attempt(folder, step, keep, system):
    """A start of the program that saves `step`; how it ended: None, or its one line, or "killed"."""
    with disk(system):
        try:
            recovered_checkpoint(folder)
            save(folder, step, keep)
        except Killed:
            return "killed"
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 300, error
            return str(error)
    return None


def operations(scratch, keep):
    """How many file operations a start with a save has."""
    counted = FailingOS()
    attempt(start(scratch, keep), keep + 1, keep, counted)
    return counted.count


def faults(scratch, keep, points=None, modes=MODES):
    """A fault at each operation, in each mode; the number of points, and of those where a save failed."""
    failed = total = 0
    for at in range(operations(scratch, keep)) if points is None else points:
        for mode in modes:
            folder = start(scratch, keep)
            ended = attempt(folder, keep + 1, keep, FailingOS(at, mode))
            # A reader sees the old one or the new one, and the new one if the save said so.
            step = check(folder, (keep, keep + 1) if ended else (keep + 1,))
            assert attempt(folder, step + 1, keep, FailingOS()) is None
            check(folder, (step + 1,))
            there = sorted(path.name for path in folder.iterdir())
            assert all(name.startswith("step-") for name in there) and len(there) <= keep, there
            total, failed = total + 1, failed + (ended is not None)
    return total, failed


def compound_faults(scratch, keep, first=None, second=None):
    """A second fault, at each operation of the start after the first."""
    total = 0
    counted = range(operations(scratch, keep))
    for at in first or counted:
        for mode in ("kill", "one error"):
            folder = start(scratch, keep)
            attempt(folder, keep + 1, keep, FailingOS(at, mode))
            step = check(folder, (keep, keep + 1))
            broken = scratch / "broken"
            shutil.rmtree(broken, ignore_errors=True)
            folder.rename(broken)
            for again in second or counted:
                for other in ("kill", "all later fail"):
                    shutil.copytree(broken, folder)
                    attempt(folder, step + 1, keep, FailingOS(again, other))
                    now = check(folder, (step, step + 1))
                    assert attempt(folder, now + 1, keep, FailingOS()) is None
                    check(folder, (now + 1,))
                    shutil.rmtree(folder)
                    total += 1
    return total


def power_cuts(scratch, keep, states, forgets=(), seed=0, until_bad=False):
    """Simulated disks after a power cut at every operation of a save, `states` of each.

    Returns:
        How many there were, and of them how many lost a checkpoint, showed a damaged one, or lost the one that
        `save_checkpoint` had said was saved.
    """
    draw = random.Random(seed)
    root = scratch / "disk"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    if keep:
        shutil.copytree(start(scratch, keep), root / "checkpoints")
    total, bad = 0, 0
    cut = scratch / "cut"

    def look(system, allowed):
        nonlocal total, bad
        if until_bad and (bad or system.flushes <= min(forgets)):
            return
        for _ in range(states):
            shutil.rmtree(cut, ignore_errors=True)
            system.after_power_cut(cut, draw)
            total += 1
            try:
                if allowed == (0, 1):  # before the very first one there may be none
                    found, damaged = latest_checkpoint(cut / "checkpoints")
                    assert damaged == [] and (found is None or found.step == 1)
                else:
                    check(cut / "checkpoints", allowed)
                for folder in (cut / "checkpoints").glob("step-*"):
                    assert_whole(folder)
            except (AssertionError, UserError, OSError, ValueError):
                bad += 1

    system = PowerOS(root, forgets, lambda system: look(system, (keep, keep + 1)))
    with disk(system):
        save(root / "checkpoints", keep + 1, max(keep, 1))
    look(system, (keep + 1,))
    return total, bad, system.flushes


def assert_whole(folder):
    """All that a checkpoint's manifest names is there; no half of one is shown."""
    names = json.loads((folder / "manifest.json").read_bytes())["files"]
    assert {file.name for file in folder.iterdir()} == {*names, "manifest.json", "manifest.sha256"}, folder


def reseal(folder, change=lambda manifest: None):
    """Make a checkpoint whole again after somebody who knows how changed its files, or the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(manifest)
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")


def flips(folder, count, seed=0):
    """Single flipped bits anywhere in the newest of two checkpoints; each is seen, and the older one taken."""
    draw = random.Random(seed)
    newest = max(folder.glob("step-*"))
    files = sorted(newest.iterdir())
    sizes = [file.stat().st_size for file in files]
    older = sorted(folder.glob("step-*"))[-2]
    for _ in range(count):
        # Each file as often as another: else the manifest would hardly be looked at.
        file = draw.choice(files)
        place = draw.randrange(sizes[files.index(file)])
        with file.open("r+b") as stream:
            stream.seek(place)
            byte = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([byte ^ 1 << draw.randrange(8)]))
        found, damaged = latest_checkpoint(folder)
        assert found.folder == older, (file, place)
        assert len(damaged) == 1 and newest.name in damaged[0], damaged
        with file.open("r+b") as stream:
            stream.seek(place)
            stream.write(bytes([byte]))
    assert latest_checkpoint(folder)[0].folder == newest


def scratch_folder(default: Path) -> Path:
    """Memory rather than a disk, where there is one: the faults are in the calls, not in the medium."""
    import tempfile

    with contextlib.suppress(OSError):
        return Path(tempfile.mkdtemp(prefix="i2i-durability-", dir="/dev/shm"))
    return default
