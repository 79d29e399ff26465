"""Disks that fail on command, and whose power is cut: `os` as i2i_bridge.storage.files sees it.

Every file effect of a save goes through `files.os`. So a kill is an exception that no later operation survives: what
then lies in the folder is what a killed process would have left, at a hundredth of the price of a process.
"""

import contextlib
import errno
import os
import random
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

OPERATIONS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "scandir")
MODES = ("kill", "short write, kill", "one error", "all later fail", "interrupted")


class Killed(BaseException):
    """The process is dead."""


class FailingOS:
    """`os`, whose operation number `at` fails in one of MODES. Flushing is not done for real: no power is cut here."""

    def __init__(self, at=None, mode="one error", error=errno.ENOSPC):
        self.at, self.mode, self.error = at, mode, error
        self.count, self.dead = 0, False

    def __getattr__(self, name):
        real = getattr(os, name)
        return (lambda *words, **at: self._call(name, partial(real, **at), words)) if name in OPERATIONS else real

    def _call(self, name, real, words):
        if self.dead:
            if name == "close":  # the kernel does it for the dead
                real(*words)
            raise Killed
        number, self.count = self.count, self.count + 1
        if self.at is None or number < self.at or (number > self.at and self.mode != "all later fail"):
            return None if name == "fsync" else real(*words)
        if self.mode in ("kill", "short write, kill"):
            if self.mode != "kill":
                real(words[0], words[1][: len(words[1]) // 2]) if name == "write" else real(*words)
            self.dead = True
            raise Killed
        if name == "close":
            real(*words)
        if self.mode == "interrupted":
            if name == "write":
                return real(words[0], words[1][: max(len(words[1]) // 2, 1)])
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        raise OSError(self.error, os.strerror(self.error))


class Full(FailingOS):
    """A disk that is full for the saves of some steps."""

    def __init__(self, steps, error=errno.ENOSPC):
        super().__init__()
        self.names, self.error = tuple(f".tmp-step-{step:08d}" for step in steps), error

    def _call(self, name, real, words):
        if name == "mkdir" and Path(words[0]).name.startswith(self.names):
            raise OSError(self.error, os.strerror(self.error))
        return super()._call(name, real, words)


@dataclass
class Node:
    """A file or folder, and what of it is on the disk for certain."""

    names: dict = field(default_factory=dict)
    """Of a folder: what the system shows."""
    kept: dict = field(default_factory=dict)
    """Of a folder: what was last flushed."""
    changes: list = field(default_factory=list)
    """Of a folder, since then: (name that goes or None, name that comes or None, node)."""
    data: bytes | None = None
    """Of a file; None for a folder."""
    kept_data: bytes = b""
    dirty: bool = False


class PowerOS:
    """`os` that does everything for real below `root` and keeps what the disk has for certain.

    Args:
        root: An existing folder; what lies in it is taken to be on the disk.
        forgets: Numbers of fsync calls that are not done, to see whether the test notices.
        observer: Called with this object after every operation.
    """

    def __init__(self, root, forgets=(), observer=lambda disk: None):
        self.root, self.forgets, self.observer = Path(root), set(forgets), observer
        self.tree, self.open_files, self.flushes = self._read(self.root), {}, 0

    def _read(self, path):
        if path.is_file():
            data = path.read_bytes()
            return Node(data=data, kept_data=data)
        names = {child.name: self._read(child) for child in path.iterdir()}
        return Node(names=dict(names), kept=dict(names))

    def _node(self, path):
        node = self.tree
        for part in Path(path).relative_to(self.root).parts:
            node = node.names[part]
        return node

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in OPERATIONS or name == "scandir":
            return real

        def call(*words, **at):
            result = real(*words, **at)
            getattr(self, f"_{name}")(result, *words, **at)
            self.observer(self)
            return result

        return call

    def _change(self, folder, gone, come, node):
        if gone is not None:
            folder.names.pop(gone)
        if come is not None:
            folder.names[come] = node
        folder.changes.append((gone, come, node))

    def _place(self, path, folder):
        """The node of the folder that a name lies in, and the name."""
        path = Path(path)
        return self._node(path.parent) if folder is None else self.open_files[folder], path.name

    def _open(self, descriptor, path, flags, mode=0, dir_fd=None):
        if dir_fd is None and Path(path) == self.root:
            self.open_files[descriptor] = self.tree
            return
        folder, name = self._place(path, dir_fd)
        if flags & os.O_CREAT and name not in folder.names:
            self._change(folder, None, name, Node(data=b""))
        elif flags & os.O_TRUNC:
            folder.names[name].data, folder.names[name].dirty = b"", True
        self.open_files[descriptor] = folder.names[name]

    def _write(self, count, descriptor, data):
        node = self.open_files[descriptor]
        node.data, node.dirty = node.data + bytes(data[:count]), True

    def _fsync(self, _, descriptor):
        number, self.flushes = self.flushes, self.flushes + 1
        node = self.open_files[descriptor]
        if number not in self.forgets:
            node.kept, node.changes = dict(node.names), []
            node.kept_data, node.dirty = node.data, False

    def _close(self, _, descriptor):
        self.open_files.pop(descriptor)

    def _mkdir(self, _, path, dir_fd=None):
        folder, name = self._place(path, dir_fd)
        self._change(folder, None, name, Node())

    def _rename(self, _, source, target, src_dir_fd=None, dst_dir_fd=None):
        (folder, name), (to, new) = self._place(source, src_dir_fd), self._place(target, dst_dir_fd)
        assert folder is to, "a rename between folders is two changes"
        self._change(folder, name, new, folder.names[name])

    _replace = _rename

    def _unlink(self, _, path, dir_fd=None):
        folder, name = self._place(path, dir_fd)
        self._change(folder, name, None, None)

    _rmdir = _unlink

    def after_power_cut(self, target, draw: random.Random):
        """Write into `target` a disk that a power cut may leave now: of all that was not flushed, any part."""
        share = draw.choice([0.0, 0.2, 0.5, 0.8, 1.0])
        self._write_down(self.tree, Path(target), draw, share)

    def _write_down(self, node, path, draw, share):
        if node.data is not None:
            data = node.data
            if node.dirty:
                cut = draw.randrange(len(data) + 1)
                data = draw.choice([node.kept_data, b"", data[:cut], data[:cut] + bytes(len(data) - cut), data])
            path.write_bytes(data)
            return
        names = dict(node.kept)
        for gone, come, child in node.changes:
            if draw.random() < share:
                if gone is not None:
                    names.pop(gone, None)
                if come is not None:
                    names[come] = child
        path.mkdir()
        for name, child in names.items():
            self._write_down(child, path / name, draw, share)


@contextlib.contextmanager
def disk(system):
    """The package's durable writes on another disk."""
    from i2i_bridge.storage import files

    real, files.os = files.os, system
    try:
        yield system
    finally:
        files.os = real
