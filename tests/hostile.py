"""Files that strangers might send, made by a script: code, bombs, tricks with strides, archives, paths and names.

attacks(folder, canary)       writes them and gives each file; `canary` exists only if one of them ran
run_apart(files)              reads each in a process of its own, forked from one that has torch already
"""

import builtins
import codecs
import ctypes
import functools
import importlib
import io
import json
import multiprocessing
import operator
import os
import pathlib
import pickle
import runpy
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import time
import types
import webbrowser
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from i2i_bridge.storage import pt_reader


class Call:
    """Pickles as a call of a function: what a hostile file is made of."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


class Storage:
    """Pickles as torch.save writes a storage."""

    def __init__(self, numel, key="0", kind=torch.FloatStorage, location="cpu"):
        self.id = ("storage", kind, key, location, numel)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.id if isinstance(value, Storage) else None


def pickled(value, protocol=2):
    stream = io.BytesIO()
    _Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def tensor(size, stride=None, offset=0, storage=None):
    stride = stride or tuple(int(np.prod(size[i + 1 :], dtype=object)) for i in range(len(size)))
    storage = storage or Storage(4)
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def zipped(pickle_bytes, *, storages=None, compression=zipfile.ZIP_STORED, folder="archive", more=()):
    """An archive as torch.save writes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", pickle_bytes)
        archive.writestr(f"{folder}/byteorder", "little")
        for key, data in (storages if storages is not None else {"0": bytes(16)}).items():
            archive.writestr(f"{folder}/data/{key}", data)
        archive.writestr(f"{folder}/version", "3\n")
        for name, data in more:
            archive.writestr(name, data)
    return stream.getvalue()


def legacy(pickle_bytes):
    return b"".join(
        (pickled(0x1950A86A20F9469CFC6C), pickled(1001), pickled({"little_endian": True}), pickle_bytes, pickled([]))
    )


def tarred(pickle_bytes):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in (("pickle", pickle_bytes), ("tensors", b""), ("storages", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def codes(canary):
    """Pickled values that run something when they are loaded, by name."""
    path = str(canary)
    touch = f"open({path!r}, 'w')"
    return {
        "os-system": Call(os.system, f"touch {path}"),
        "popen": Call(subprocess.Popen, ["touch", path]),
        "check-output": Call(subprocess.check_output, ["touch", path]),
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "import": Call(__import__, "os"),
        "import-module": Call(importlib.import_module, "antigravity"),
        "getattr": Call(getattr, Call(builtins.open, path, "w"), "write"),
        "open": Call(builtins.open, path, "w"),
        "touch": Call(pathlib.Path.touch, pathlib.PurePosixPath(path)),
        "rmtree": Call(shutil.rmtree, path),
        "run-path": Call(runpy.run_path, path),
        "loads": Call(pickle.loads, pickle.dumps(Call(eval, touch), 2)),
        "partial": Call(functools.partial, eval, touch),
        "methodcaller": Call(operator.methodcaller, "touch"),
        "cdll": Call(ctypes.CDLL, path),
        "process": Call(multiprocessing.Process),
        "socket": Call(socket.create_connection, ("127.0.0.1", 9)),
        "browser": Call(webbrowser.open, "file:///"),
        "function": Call(types.SimpleNamespace),
        "torch-load": Call(torch.load, path),
        "torch-hub": Call(torch.hub.load, "x", "y"),
        "remove": Call(os.remove, path),
        "kill": Call(os.kill, 1, 0),
    }


ODD_OPCODES = {
    "stack-global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "inst": b"(S'true'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'true'\no.",
    "newobj": b"\x80\x02cos\nsystem\n)\x81.",
    "newobj-ex": b"\x80\x04cos\nsystem\n)}\x92.",
    "ext": b"\x80\x02\x82\x01.",
    "reduce-of-string": b"\x80\x02X\x02\x00\x00\x00os)R.",
    "code-after-the-end": pickled({"a": 1}) + b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "unicode-global": b"\x80\x02c\xd0\xbes\nsystem\n.",
    "dotted-global": b"\x80\x04ctorch\nFloatStorage.__init__.__globals__\n.",
    "newline-in-global": b"\x80\x02ccollections\nOrderedDict \n)R.",
    "persid": b"P0\n.",
    "frozenset": b"\x80\x04(\x91.",
    "bytes8": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "bytearray8": b"\x80\x05\x96\x00\x00\x00\xff\x00\x00\x00\x00.",
    "long4": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "long-text": b"L" + b"9" * 3_000_000 + b"L\n.",
    "huge-memo": b"\x80\x02}r\xff\xff\xff\xff.",
    "unknown-memo": b"\x80\x02h\x07.",
    "deep-tuples": b"\x80\x02)" + b"\x85" * 150_000 + b".",
    "many-steps": b"\x80\x02(" + b"K\x01" * 3_000_000 + b"t.",
    "no-end": b"\x80\x02}",
    "empty-pickle": b"",
}


def tricks():
    """Pickled values that pass for tensors, and the bytes of their storages."""
    small, big = bytes(16), bytes(4096)
    sparse = Call(
        torch._utils._rebuild_sparse_tensor,
        torch.sparse_coo,
        (tensor((1, 2), storage=Storage(2, kind=torch.LongStorage)), tensor((2,)), (2**40,)),
    )
    yield "numpy-reconstruct", {"a": np.arange(4)}, small
    yield "bytearray-bomb", {"a": [Call(bytearray, 2**30) for _ in range(4)]}, small
    yield "codecs", {"a": Call(codecs.encode, "x", "latin1")}, small
    yield "stride-0", {"a": tensor((200_000, 200_000), (0, 0))}, small
    yield "stride-0-in-one-axis", {"a": tensor((1000, 4), (0, 1))}, small
    yield "overlap", {"a": tensor((1000, 24), (1, 1), storage=Storage(1024))}, big
    yield "overlap-that-fits", {"a": tensor((4, 4), (0, 1), storage=Storage(1024))}, big
    yield "negative-stride", {"a": tensor((4,), (-1,))}, small
    yield "numel-overflow", {"a": tensor((2**62, 4))}, small
    yield "size-beyond-storage", {"a": tensor((2**33,))}, small
    yield "offset-beyond-storage", {"a": tensor((4,), (1,), 1000)}, small
    yield "negative-offset", {"a": tensor((4,), (1,), -4)}, small
    yield "negative-size", {"a": tensor((-4,), (1,))}, small
    yield "storage-beyond-record", {"a": tensor((2**28,), storage=Storage(2**28))}, small
    yield "negative-storage", {"a": tensor((4,), storage=Storage(-4))}, small
    yield "storage-of-2-to-the-62", {"a": tensor((4,), storage=Storage(2**62))}, small
    yield "storage-is-missing", {"a": tensor((4,), storage=Storage(4, "77"))}, small
    yield "storage-by-path", {"a": tensor((4,), storage=Storage(4, "../../../../etc/passwd"))}, small
    yield "storage-on-meta", {"a": tensor((2**40,), storage=Storage(2**40, location="meta"))}, small
    shared = tensor((1024,), storage=Storage(1024))
    yield "one-tensor-50000-times", {f"n{i}": shared for i in range(50_000)}, big
    yield "one-storage-2000-times", {f"n{i}": tensor((1024,), storage=Storage(1024)) for i in range(2000)}, big
    yield "sparse", {"a": sparse}, small
    yield "quantized", {"a": Call(torch._utils._rebuild_qtensor, Storage(4), 0, (4,), (1,), (), False, {})}, small
    yield "meta", {"a": Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (2**40,), (1,), False)}, small
    yield "device", {"a": Call(torch.device, "cuda")}, small
    yield "parameter-of-a-number", {"a": Call(torch._utils._rebuild_parameter, 1, False, OrderedDict())}, small
    yield "state-of-a-dict", Call(OrderedDict, state={"__class__": 1, "keys": 2}), small
    yield "nan", {"a": tensor((4,))}, np.array([0, 1, np.nan, 2], np.float32).tobytes()
    yield "infinity", {"a": tensor((4,))}, np.array([0, 1, -np.inf, 2], np.float32).tobytes()
    yield "complex", {"a": torch.complex64}, small
    yield "list", [tensor((4,))], small
    yield "number-as-name", {1: tensor((4,))}, small
    yield "newline-in-name", {"a\nerror: fine": tensor((4,))}, small
    yield "empty-dict", {}, small
    yield "nested", {"state_dict": {"a": tensor((4,))}}, small
    yield "optimizer-with-code", {"net": {"a": tensor((4,))}, "optimizer": Call(os.system, "true")}, small
    laughs = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    yield "billion-laughs", {"a": laughs}, small


def archives(canary):
    """Archives that are not what they seem, around an honest pickle."""
    honest = pickled({"a": tensor((4,))})
    whole = zipped(honest)
    bomb = pickled({"a": tensor((2**20,), storage=Storage(2**20))})
    yield "deflated", zipped(honest, compression=zipfile.ZIP_DEFLATED)
    yield "deflated-bomb", zipped(bomb, storages={"0": bytes(2**28)}, compression=zipfile.ZIP_DEFLATED)
    yield "bzip2", zipped(honest, compression=zipfile.ZIP_BZIP2)
    yield "lzma", zipped(honest, compression=zipfile.ZIP_LZMA)
    yield "name-twice", twice(honest)
    yield "name-upwards", zipped(honest, more=[("archive/../../evil", b"x")])
    yield "name-absolute", zipped(honest, more=[(f"{canary}", b"x")])
    yield "name-backslash", zipped(honest, more=[("archive\\data\\1", b"x")])
    yield "name-of-nothing", zipped(honest, more=[("archive/data/", b"")])
    yield "two-folders", zipped(honest, more=[("other/data.pkl", pickled(Call(os.system, "true")))])
    yield (
        "torchscript",
        zipped(honest, more=[("archive/code/__torch__.py", b"import os"), ("archive/constants.pkl", b"")]),
    )
    yield "wheel", zipped(honest, more=[("archive/evil.py", b"import os")])
    yield "no-pickle", zipped(honest).replace(b"data.pkl", b"data.pkz")
    yield "cut-off", whole[: len(whole) // 2]
    yield "cut-by-a-byte", whole[:-1]
    yield "something-before", b"#!/bin/sh\n" + whole
    yield "something-after", whole + b"\x80\x02."
    yield "comment", whole[:-2] + b"\x05\x00extra"
    yield "members-lie", whole[:-14] + struct.pack("<HH", 60_000, 60_000) + whole[-10:]
    yield "directory-lies", whole[:-6] + struct.pack("<L", 12) + whole[-2:]
    yield "zip64-lies", zip64_lies(whole)
    yield "zip64-locator-alone", whole[:-22] + b"PK\x06\x07" + struct.pack("<LQL", 0, 2**62, 1) + whole[-22:]
    yield "local-name-differs", whole.replace(b"archive/data/0", b"archive/data/9", 1)
    yield "members-overlap", overlapping(whole)
    yield "size-lies", whole.replace(struct.pack("<LL", 16, 16), struct.pack("<LL", 2**31, 2**31))
    yield "encrypted", flagged(whole)
    yield "checksum-wrong", whole.replace(honest, honest[:-3] + b"(t.", 1)
    yield "members-70000", crowd(70_000)
    yield "byteorder", zipped(honest).replace(b"little", b"middle")
    yield "pickle-of-65-MB", zipped(bytes(65 * 2**20))


def twice(honest):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", honest)
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/data.pkm", pickled(Call(os.system, "true")))
    return stream.getvalue().replace(b"data.pkm", b"data.pkl")


def zip64_lies(whole):
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**40, 2**40, 2**50, 2**50)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(whole) - 22, 1)
    return whole[:-22] + record + locator + whole[-22:]


def overlapping(whole):
    """Two members at the same place."""
    start = struct.unpack("<L", whole[-6:-2])[0]
    second = whole.index(b"PK\x01\x02", start + 4)
    return whole[: second + 42] + bytes(4) + whole[second + 46 :]


def flagged(whole):
    start = struct.unpack("<L", whole[-6:-2])[0]
    return whole[: start + 8] + b"\x01\x00" + whole[start + 10 :]


def crowd(count):
    return zipped(pickled({}), storages={str(i): b"" for i in range(count)})


def other_kinds():
    yield "empty", b""
    yield "git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    yield "web-page", b"<!DOCTYPE html><html><title>Quota exceeded</title></html>"
    yield "noise", bytes(range(256)) * 40
    yield "bare-pickle", pickled({"a": 1})
    yield "jpeg", b"\xff\xd8\xff\xe0" + bytes(100)
    yield "elf", b"\x7fELF" + bytes(100)
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100)
    yield "only-an-end", b"PK\x05\x06" + bytes(18)
    yield "empty-archive-with-head", b"PK\x03\x04PK\x05\x06" + bytes(18)


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def safetensors_attacks():
    """Names of safetensors files, and functions that make their bytes, some 100 MB."""
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    text = json.dumps(entry).encode()
    yield "header-of-100-MB", lambda: safetensors(b"{" + b" " * (100 * 2**20) + b"}")
    yield "header-claims-2-to-the-62", lambda: safetensors({"a": entry}, bytes(16), 2**62)
    yield "header-beyond-the-file", lambda: safetensors({"a": entry}, bytes(16), 4096)
    yield "name-twice", lambda: safetensors(b'{"a":' + text + b',"a":' + text + b"}", bytes(16))
    yield "nan", lambda: safetensors({"a": entry}, np.full(4, np.nan, np.float32).tobytes())
    yield "infinity-in-half", lambda: safetensors({"a": entry | {"dtype": "F16", "shape": [8]}}, b"\x00\x7c" * 8)
    yield "unknown-dtype", lambda: safetensors({"a": entry | {"dtype": "F99"}}, bytes(16))
    yield "shape-differs", lambda: safetensors({"a": entry | {"shape": [5]}}, bytes(16))
    yield "shape-overflows", lambda: safetensors({"a": entry | {"shape": [2**62, 2**62]}}, bytes(16))
    yield "shape-negative", lambda: safetensors({"a": entry | {"shape": [-4]}}, bytes(16))
    yield "offsets-overlap", lambda: safetensors({"a": entry, "b": entry}, bytes(16))
    yield "offsets-with-a-hole", lambda: safetensors({"a": entry | {"data_offsets": [4, 20]}}, bytes(20))
    yield (
        "offsets-beyond-the-file",
        lambda: safetensors({"a": entry | {"data_offsets": [0, 2**40], "shape": [2**38]}}, bytes(16)),
    )
    yield "data-after-the-end", lambda: safetensors({"a": entry}, bytes(16) + b"PK\x03\x04")
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    yield "a-million-tensors", lambda: safetensors({str(i): nothing for i in range(1_000_000)})
    yield "not-json", lambda: safetensors(b"{a}")
    yield "deep-json", lambda: safetensors(b'{"a":' * 100_000)
    yield "a-list", lambda: safetensors(b"[]")
    yield "not-utf8", lambda: safetensors(b'{"\xff":1}')
    yield "empty", lambda: b""
    yield "seven-bytes", lambda: bytes(7)


def special(folder):
    """Things of the file system that are no plain files."""
    honest = folder / "honest.pt"
    honest.write_bytes(zipped(pickled({"a": tensor((4,))})))
    (folder / "link.pt").symlink_to(honest)
    (folder / "dangling.pt").symlink_to(folder / "nowhere")
    (folder / "zero.pt").symlink_to("/dev/zero")
    os.mkfifo(folder / "fifo.pt")
    (folder / "folder.pt").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(folder / "socket.pt"))
    listener.close()
    names = ("link", "dangling", "zero", "fifo", "folder", "socket")
    return [*(folder / f"{name}.pt" for name in names), Path("/dev/zero"), folder / "missing.pt"]


def attacks(folder, canary):
    """All hostile `.pt`, written below a folder."""
    contents = {}
    for name, code in codes(canary).items():
        data = pickled({"a": code})
        contents[f"{name}-zip"] = zipped(data)
        if name in ("os-system", "eval", "getattr"):
            contents |= {f"{name}-legacy": legacy(data), f"{name}-tar": tarred(data), f"{name}-bare": data}
    contents |= {f"opcode-{name}": zipped(data) for name, data in ODD_OPCODES.items()}
    contents |= {f"trick-{name}": zipped(pickled(value), storages={"0": data}) for name, value, data in tricks()}
    contents |= {f"archive-{name}": data for name, data in archives(canary)}
    contents |= dict(other_kinds())
    files = special(folder)
    for name, data in contents.items():
        file = folder / f"{name}.pt"
        file.write_bytes(data)
        files.append(file)
    return files


class Read(NamedTuple):
    """How the reading of one file ended."""

    refusal: str | None
    seconds: float
    """Of the processor: on a machine with other work, the clock on the wall says nothing."""
    megabytes: float
    """Peak memory beyond that of the process before."""
    events: list[str]
    """What it did that no reader of files has to do."""


def suspicious(event, arguments, allowed):
    """Whether an audit event is a process, a connection, a library, or a file opened for writing elsewhere."""
    if event.startswith(pt_reader.FORBIDDEN) or event in (
        "exec",
        "webbrowser.open",
        "os.kill",
        "os.remove",
        "os.rename",
    ):
        return True
    if event == "open" and isinstance(arguments[0], str):
        _, mode, flags = arguments
        writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        return bool(writes) and not str(arguments[0]).startswith(allowed)
    return False


def _note(events, allowed, event, arguments):
    if suspicious(event, arguments, allowed):
        events.append(f"{event} {arguments}"[:200])


def run_apart(files, out, read=None):
    """Reads each file in a process forked from this one, with limited memory, and watches it."""
    import resource

    import safetensors.torch

    read = read or (lambda file: pt_reader.answer(str(file), "state dict", str(out / "out.safetensors"), False))
    warm = out / "warm.pt"
    torch.save({"a": torch.zeros(1)}, warm)
    # Imports that come late (zipfile decodes old names).
    "".encode("cp437")
    pt_reader.load(str(warm), "state dict", pt_reader.examine(str(warm)))
    safetensors.torch.save_file({"a": torch.zeros(1)}, out / "warm.safetensors")
    results = []
    for file in files:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            events = []
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            sys.addaudithook(functools.partial(_note, events, str(out)))
            start = time.process_time()
            try:
                refusal = read(file)
            except BaseException as error:
                refusal = f"ESCAPED {type(error).__name__}: {error}"
            seconds = time.process_time() - start
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            os.write(writer, json.dumps([refusal, seconds, grown, events[:5]]).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            said = stream.read()
        os.waitpid(pid, 0)
        results.append(Read(*json.loads(said)) if said else Read("DIED", 0.0, 0.0, []))
    return results


if __name__ == "__main__":
    home = Path(sys.argv[1])
    for part in ("files", "out"):
        (home / part).mkdir(parents=True)
    found = attacks(home / "files", home / "canary")
    for file, result in zip(found, run_apart(found, home / "out"), strict=True):
        print(f"{file.name:40} {result.seconds:6.3f} s {result.megabytes:6.1f} MB {result.refusal} {result.events}")
    print(len(found), "files; the canary", "RAN" if (home / "canary").exists() else "did not run")
