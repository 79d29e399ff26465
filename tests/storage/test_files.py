"""Durable writes through every fault: a slice of what `make soak` does in full."""

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import durability
import pytest
from faults import FailingOS, Killed, PowerOS, disk

from i2i_bridge.errors import UserError, located
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.storage import files
from i2i_bridge.storage.lock import locked


@pytest.fixture
def scratch(tmp_path):
    folder = durability.scratch_folder(tmp_path)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_fault_at_any_operation_leaves_a_loadable_checkpoint(scratch, keep):
    """kills: rotated-before-published, leftovers-stay, partial-write-taken-for-whole"""
    points = None if keep == 1 else range(0, durability.operations(scratch, keep), 3)
    total, failed = durability.faults(scratch, keep, points)
    assert total >= 80 and total * 0.4 < failed < total


def test_a_second_fault_during_recovery_neither(scratch):
    count = durability.operations(scratch, 1)
    assert durability.compound_faults(scratch, 1, range(0, count, 6), range(1, count, 8)) > 100


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_no_power_cut_loses_what_was_said_to_be_saved(scratch, keep):
    """kills: file-not-flushed, folder-not-flushed, names-not-flushed, retired-without-a-flush"""
    total, bad, flushes = durability.power_cuts(scratch, keep, states=4)
    assert total > 100 and bad == 0 and flushes >= 7


@pytest.mark.parametrize("keep", [0, 1])
def test_each_flush_is_needed(scratch, keep):
    """If any one fsync is left out, the same power cuts lose data."""
    _, _, flushes = durability.power_cuts(scratch, keep, states=0)
    for number in range(flushes):
        _, bad, _ = durability.power_cuts(scratch, keep, states=12, forgets={number}, until_bad=True)
        assert bad, f"flush {number} of {flushes} is not needed, or the test is blind"


def test_what_a_power_cut_does_is_simulated(tmp_path):
    """The simulation itself: unflushed bytes and names may or may not survive a power cut."""
    import random

    (tmp_path / "disk").mkdir()
    system = PowerOS(tmp_path / "disk")
    with disk(system):
        descriptor = files.os.open(tmp_path / "disk" / "a", os.O_WRONLY | os.O_CREAT)
        files.os.write(descriptor, b"123456")
        files.os.close(descriptor)
    seen = set()
    for seed in range(60):
        system.after_power_cut(tmp_path / "cut", random.Random(seed))
        file = tmp_path / "cut" / "a"
        seen.add(file.read_bytes() if file.exists() else None)
        shutil.rmtree(tmp_path / "cut")
    assert {None, b"", b"123456"} < seen and any(value and value.endswith(b"\0") for value in seen)


@pytest.mark.parametrize("mode", ["kill", "short write, kill", "one error", "all later fail", "interrupted"])
def test_a_file_is_the_old_one_or_the_new_one(scratch, mode):
    # kills: written-in-place
    file = scratch / "file"
    for at in range(20):
        file.write_bytes(b"old" * 10)
        system = FailingOS(at, mode)
        with disk(system):
            try:
                files.write_whole(file, b"new" * 20)
                said = True
            except (UserError, Killed):
                said = False
        assert file.read_bytes() in ({b"new" * 20} if said else {b"old" * 10, b"new" * 20})
        files.sweep(scratch)
        assert [path.name for path in scratch.iterdir()] == ["file"]
        if system.count <= at:
            return
    raise AssertionError("a write of one file has fewer operations")


def test_what_is_published_is_readable_by_others_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_whole(tmp_path / "new" / "file", b"1")
        folder = durability.save(tmp_path / "checkpoints", 1, 1)
    finally:
        os.umask(before)
    for file in (tmp_path / "new" / "file", *folder.iterdir()):
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_published_folder_is_never_overwritten(tmp_path):
    # kills: published-over-another
    durability.save(tmp_path, 1, 1)
    for path in (tmp_path / "step-00000001").iterdir():
        path.unlink()  # an empty folder would give way to a rename
    with pytest.raises(UserError, match=r"not saved: .*step-00000001: it is there already") as caught:
        durability.save(tmp_path, 1, 1)
    assert caught.value.code == 74
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def listed(folder):
    return [path.name for path in folder.iterdir()]


def test_a_folder_that_cannot_be_renamed_stays_where_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "page").write_text("old")
    with pytest.raises(FileNotFoundError):
        files.exchange_folder(tmp_path / "missing", tmp_path / "out")
    assert (tmp_path / "out" / "page").read_text() == "old" and listed(tmp_path) == ["out"]
    with pytest.raises(FileNotFoundError):
        files.set_aside(tmp_path / "missing", "aside")
    assert listed(tmp_path) == ["out"]


@pytest.mark.parametrize("old", [True, False])
def test_a_folder_takes_the_place_of_another_and_leaves_nothing_of_it(tmp_path, old):
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "page").write_text("new")
    if old:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "image").write_text("old")
    files.exchange_folder(tmp_path / "fresh", tmp_path / "out")
    assert listed(tmp_path) == ["out"] and listed(tmp_path / "out") == ["page"]


def test_a_folder_below_a_file_is_refused_before_the_work(tmp_path):
    files.check_writable(tmp_path / "new" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run: cannot be written \(.*file is a file\); choose another folder"):
        files.check_writable(tmp_path / "file" / "run")
    assert listed(tmp_path) == ["file"]


def test_what_a_process_left_of_a_file_is_removed_by_its_number(tmp_path):
    """And nothing of other files and processes."""

    class Dying(FailingOS):
        def write(self, *words):
            self.dead = True
            raise Killed

    with disk(Dying()), pytest.raises(Killed):
        files.write_whole(tmp_path / "a.png", b"half")
    (left,) = listed(tmp_path)
    for file, process in ((tmp_path / "b.png", os.getpid()), (tmp_path / "a.png", 1), (tmp_path / "no" / "a.png", 1)):
        files.remove_partial(file, process)
        assert listed(tmp_path) == [left]
    files.remove_partial(tmp_path / "a.png", os.getpid())
    assert listed(tmp_path) == []


def test_an_interrupted_save_leaves_nothing(tmp_path):
    def data():
        yield "a", b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.publish_folder(tmp_path / "step", data())
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from i2i_bridge.storage.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    if len(sys.argv) > 2:
        import os
        os.fork()  # as a data worker, which outlives its parent
    while True:
        time.sleep(1)
"""


def hold(folder, *more):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(folder), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_has_one_writer_and_a_killed_one_lets_go(tmp_path):
    """kills: lock-not-taken"""
    process = hold(tmp_path / "run", "fork")
    try:
        with pytest.raises(UserError, match="another run is writing there"), locked(tmp_path / "run"):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path / "run"):  # its fork lives on
            pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.stdout.close()


def test_folders_that_cannot_be_held(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is a file") as caught, locked(tmp_path / "file"):
        pass
    assert caught.value.code == 2
    import fcntl

    def full(*arguments, **at):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", full)
        with pytest.raises(UserError, match="cannot be written") as caught, locked(tmp_path / "full"):
            pass
    assert caught.value.code == 74

    def without(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", without)
    with locked(tmp_path / "run"):  # better no lock than no training
        pass


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 74), (errno.EIO, 74), (errno.EACCES, 2), (errno.EROFS, 2)])
def test_a_full_disk_is_no_mistake_of_the_user(tmp_path, monkeypatch, number, code):
    """kills: full-disk-as-a-mistake"""

    def fail(*arguments, **at):
        raise OSError(number, os.strerror(number))

    (tmp_path / "page.html").write_bytes(b"old")
    monkeypatch.setattr(os, "write", fail)
    for write in (
        lambda: files.write_whole(tmp_path / "page.html", b"new"),
        lambda: _written_below(tmp_path / "page.html"),
    ):
        with pytest.raises(UserError, match=r"page\.html: cannot be written \(") as caught:
            write()
        assert caught.value.code == code
    assert (tmp_path / "page.html").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def _written_below(path):
    with located(path, "cannot be written", OSError), path.open("r+b", buffering=0) as file:
        os.write(file.fileno(), b"new")


def test_file_systems_that_cannot_flush_folders(tmp_path, monkeypatch):
    class Odd(FailingOS):
        def _call(self, name, real, words):
            if name == "fsync" and stat.S_ISDIR(os.fstat(words[0]).st_mode) and not self.refuses:
                raise OSError(self.error, "odd")
            if name == "open" and self.refuses and not words[1] & (os.O_PATH | os.O_CREAT):
                raise PermissionError(errno.EACCES, "may not be listed")
            return real(*words)

    for code, refuses in ((errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)):
        with disk(Odd(error=code)) as system:
            system.refuses = refuses
            files.write_whole(tmp_path / "file", b"1")
    with disk(Odd(error=errno.EIO)) as system, pytest.raises(UserError, match="odd"):
        system.refuses = False
        files.write_whole(tmp_path / "file", b"2")


def test_a_folder_that_another_process_makes_meanwhile(tmp_path):
    class Late(FailingOS):
        def mkdir(self, name, dir_fd):
            os.mkdir(name, dir_fd=dir_fd)
            os.mkdir(name, dir_fd=dir_fd)

    with disk(Late()):
        files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_sweeping_leaves_everything_else(tmp_path):
    files.sweep(tmp_path / "not there")
    durability.save(tmp_path, 1, 1)
    (tmp_path / "notes.part").write_text("mine")
    (tmp_path / ".tmp-step-00000002-7").mkdir()
    (tmp_path / ".recipe.toml.7.part").write_text("half")
    (tmp_path / ".dead-x").mkdir()
    (tmp_path / ".dead-x" / "inner").mkdir()
    (tmp_path / ".dead-x" / "link").symlink_to(tmp_path / "step-00000001")
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.part", "step-00000001"]
    assert latest_checkpoint(tmp_path)[0].step == 1


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path):
    assert files.free_bytes(tmp_path / "a" / "b") == pytest.approx(files.free_bytes(tmp_path), rel=0.1)
