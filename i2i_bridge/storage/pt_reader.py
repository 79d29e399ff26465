"""Reader of untrusted PyTorch files: a script that runs in a child process with limited memory and time.

`storage/tensors.py` starts the script. A `.pt` is a zip archive with a pickle, and a pickle is a program: only the few
functions that rebuild tensors are allowed in it. The file is examined with the standard library first, so that most bad
files are rejected before torch is imported.
"""

import json
import os
import pickletools
import re
import stat
import struct
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

GLOBALS = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
    | {
        f"torch {kind}Storage"
        for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
    }
)
"""The globals allowed in a pickle. Fewer than torch allows: with `bytearray`, 900 bytes allocate 4 GB."""

OPCODES = frozenset(
    re.findall(
        r"\w+",
        "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_DICT EMPTY_LIST"
        " EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS BINPUT LONG_BINPUT BINGET"
        " LONG_BINGET GLOBAL BINPERSID REDUCE BUILD",
    )
)
"""The pickle opcodes that torch.save writes for tensors in plain containers; no other is allowed."""

MEMBER = re.compile(
    r"[^/]+/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+)"
)
MAX_MEMBERS, MAX_PICKLE, MAX_OPCODES = 50_000, 64 * 2**20, 200_000
"""Limits of an archive. For scale: an I2SB checkpoint of 566 tensors with EMA and optimizer moments has 2,300 members,
a pickle of 0.3 MB and 100,000 opcodes."""
LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""Magic number, pickled, at the beginning of a file of PyTorch before 1.6."""

DTYPES = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


class Refused(Exception):
    """A file is rejected; the message says what the file is, and what to do."""


def examine(path: str, legacy: bool = False) -> frozenset[int] | None:
    """Check a file without loading it: a regular file, a consistent archive, a pickle that rebuilds only tensors.

    Args:
        path: The file.
        legacy: Whether the format of PyTorch before 1.6 is accepted.

    Returns:
        The sizes of the archive's members, one of which is that of each storage; None for the legacy format.

    Raises:
        Refused: A check fails.
    """
    with _opened(path) as file:
        head = file.read(512)
        if head.startswith(b"PK\x03\x04"):
            pickled, sizes = _pickle_of(file)
            scan(pickled)
            if pickled.read(1):
                raise Refused("is not a readable PyTorch file: something follows its pickle")
            return sizes
        if legacy and head.startswith(LEGACY):
            file.seek(0)
            for _ in range(5):  # a number, the protocol, the machine, the object, the storages' keys
                scan(file)
            return None
        raise Refused(_kind(head))


def _opened(path: str) -> BinaryIO:
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise Refused("is a link; name the file itself")
        if not stat.S_ISREG(mode):
            raise Refused("is a folder, not a file" if stat.S_ISDIR(mode) else "is not a plain file")
        # The path may have been replaced since lstat: do not follow a link, and do not block on a pipe.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        return os.fdopen(handle, "rb")
    except FileNotFoundError as error:
        raise Refused("no such file") from error
    except (OSError, ValueError) as error:
        raise Refused(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _kind(head: bytes) -> str:
    if not head:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; get that with: git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not a file of weights; download it again"
    if head.startswith(LEGACY):
        return (
            "is of the format of PyTorch before 1.6, which is not read here; if you trust it, rewrite it in Python: "
            "torch.save(torch.load(OLD, weights_only=True), NEW)"
        )
    if head[257:262] == b"ustar":
        return "is a tar archive (PyTorch before 0.1.10, or another kind of file), which is not read here"
    if head[:1] == b"\x80":
        return "is a bare pickle, which may hold code: refused"
    return "is not a PyTorch file, or damaged"


def _directory(file: BinaryIO) -> tuple[int, int]:
    """Offset of the archive's central directory, and its number of members.

    An archive that can be read in two ways is rejected; torch could otherwise load members other than those checked.
    """
    size = file.seek(0, os.SEEK_END)
    if size < 22:
        raise Refused("is not a whole PyTorch file: the archive is cut off")
    file.seek(size - min(size, 98))
    tail = file.read()
    end = tail[-22:]
    if end[:4] != b"PK\x05\x06":
        raise Refused("is not a whole PyTorch file: the archive is cut off, or something follows it")
    disk, first_disk, on_disk, members, length, start, comment = struct.unpack("<4H2LH", end[4:])
    stop = size - 22
    wide = len(tail) == 98 and tail[-42:-38] == b"PK\x06\x07"
    if wide:
        record = tail[:56]
        (offset,) = struct.unpack("<Q", tail[-34:-26])
        if record[:4] != b"PK\x06\x06" or offset != size - 98:
            raise Refused("is an archive whose directory cannot be trusted")
        short = (on_disk, members, length, start)
        on_disk, members, length, start = struct.unpack("<4Q", record[24:56])
        exact = zip(short, (on_disk, members, length, start), (0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1), strict=True)
        if any(narrow not in (true, mark) for narrow, true, mark in exact):
            raise Refused("is an archive whose directory cannot be trusted")
        stop = size - 98
    if disk or first_disk or comment or on_disk != members or start + length != stop:
        raise Refused("is an archive whose directory cannot be trusted")
    if not 0 < members <= MAX_MEMBERS or length > 1000 * members:
        raise Refused(f"is an archive of {members} members; at most {MAX_MEMBERS} are read")
    return start, members


def _pickle_of(file: BinaryIO) -> tuple[BinaryIO, frozenset[int]]:
    """The pickle and the member sizes of an archive whose members are uncompressed, unique and do not overlap."""
    start, members = _directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            listed = sorted(archive.infolist(), key=lambda member: member.header_offset)
            names = [member.orig_filename for member in listed]
            if any("code/" in name or name.endswith("constants.pkl") for name in names):
                raise Refused("is a TorchScript archive, which is a program: refused")
            if len(listed) != members or len(set(names)) != members:
                raise Refused("is an archive in which a name comes twice")
            bad = next((name for name in names if not MEMBER.fullmatch(name)), None)
            if bad is not None:
                raise Refused(f"is an archive with a member {bad[:80]!r}, which no file of tensors has")
            if len({name.partition("/")[0] for name in names}) > 1:
                raise Refused("is an archive of several folders, which no file of tensors is")
            ends = [member.header_offset for member in listed[1:]] + [start]
            for member, end in zip(listed, ends, strict=True):
                _check_member(file, member, end)
            pickled = next((name for name in names if name.endswith("/data.pkl")), "")
            if not pickled:
                raise Refused("is a zip archive without data.pkl, not a PyTorch file")
            if archive.getinfo(pickled).file_size > MAX_PICKLE:
                raise Refused(f"holds a pickle of more than {MAX_PICKLE // 2**20} MB, which no file of tensors needs")
            return BytesIO(archive.read(pickled)), frozenset(member.file_size for member in listed)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise Refused("is a damaged archive") from error


def _check_member(file: BinaryIO, member: zipfile.ZipInfo, end: int) -> None:
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size or member.flag_bits & 1:
        raise Refused("is a compressed or encrypted archive; PyTorch writes neither")
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise Refused("is an archive whose directory cannot be trusted")
    method, lengths = struct.unpack("<H", header[8:10])[0], struct.unpack("<2H", header[26:30])
    name = file.read(lengths[0])
    begins = member.header_offset + 30 + sum(lengths)
    if method or name != member.orig_filename.encode("utf-8") or begins + member.file_size > end:
        raise Refused("is an archive whose members overlap, or are not where its directory says")


def scan(stream: BinaryIO) -> None:
    """Check the opcodes of a pickle without executing it.

    Raises:
        Refused: The pickle is damaged, too long, or has an opcode or global that tensors do not need.
    """
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            count += 1
            if opcode.name == "GLOBAL" and argument not in GLOBALS:
                raise Refused(f"holds more than tensors ({str(argument)[:60]!r}), which is refused: it may be code")
            if opcode.name not in OPCODES or (opcode.name == "PROTO" and argument != 2):
                raise Refused(f"holds more than tensors (opcode {opcode.name}), which is refused: it may be code")
            if opcode.name == "LONG1" and isinstance(argument, int) and argument.bit_length() > 80:
                raise Refused("holds a number beyond 80 bits, which no file of tensors needs")
            if count > MAX_OPCODES:
                raise Refused(f"is a program of more than {MAX_OPCODES} steps, which no file of tensors needs")
    except (ValueError, IndexError, KeyError, OverflowError, struct.error, UnicodeError) as error:
        raise Refused("is not a readable PyTorch file: its pickle is damaged") from error


def load(path: str, layout: str, sizes: frozenset[int] | None) -> dict[str, Any]:
    """Load the tensors of a file that has passed `examine`, by name.

    Args:
        path: The file.
        layout: "state dict" (tensors by name), "i2sb" (a network and the list of its EMA weights), or "weights"
            (either; of "i2sb" the EMA weights by the network's names), or "wrapped" (a state dict, or the first of
            WRAPPERS in a dictionary).
        sizes: The result of `examine`.

    Raises:
        Refused: The file has another structure, or a tensor is not finite, not dense, or larger than its data.
    """
    import torch

    try:
        # The legacy format cannot be memory-mapped.
        stored: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=sizes is not None)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many types, and its message advises weights_only=False: it is not shown
        raise Refused("is not a readable PyTorch file: damaged or malicious") from error
    tensors = {"state dict": _state_dict, "i2sb": _i2sb, "weights": _weights, "wrapped": _wrapped}[layout](stored)
    room, seen = Path(path).stat().st_size, set()
    for name, value in tensors.items():
        room -= _check_tensor(name, value)
        if sizes is not None and value.untyped_storage().nbytes() not in sizes:
            raise Refused(f"'{name}' is a tensor whose numbers are not where the archive has them")
        if room < 0:
            raise Refused(f"claims tensors of more bytes than the file has ('{name}')")
        address = value.untyped_storage().data_ptr()
        tensors[name] = value.clone() if address in seen else value.detach().contiguous()
        seen.add(address)
    return tensors


def _check_tensor(name: str, value: Any) -> int:
    """Check that a tensor is dense, non-overlapping, inside its storage and finite; returns its size in bytes."""
    dtype = str(value.dtype).removeprefix("torch.")
    if str(value.layout) != "torch.strided" or str(value.device) != "cpu" or dtype not in DTYPES:
        raise Refused(f"'{name}' is not a plain tensor of numbers")
    order = sorted(range(value.ndim), key=lambda axis: (value.stride(axis), value.shape[axis]), reverse=True)
    size = int(value.numel() * value.element_size())
    begins = value.storage_offset() * value.element_size()
    if not value.permute(order).is_contiguous() or begins + size > value.untyped_storage().nbytes():
        raise Refused(f"'{name}' is a tensor of {tuple(value.shape)} whose elements overlap or are not in the file")
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise Refused(f"'{name}' holds numbers that are not finite")
    return size


def _state_dict(stored: Any, what: str = "not a state dict, which holds tensors by name") -> dict[str, Any]:
    import torch

    if not isinstance(stored, dict) or not stored:
        raise Refused(what)
    for name, value in stored.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise Refused(what)
        if not 0 < len(name) <= 200 or not name.isprintable():
            raise Refused("holds a tensor of an unprintable name")
    return dict(stored)


def _i2sb(stored: Any) -> dict[str, Any]:
    import torch

    what = "not a checkpoint of the official I2SB code, which holds 'net' and 'ema'"
    if not isinstance(stored, dict) or not {"net", "ema"} <= stored.keys():
        raise Refused(what)
    net, ema = _state_dict(stored["net"], what), stored["ema"]
    average = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not isinstance(average, list) or not all(isinstance(value, torch.Tensor) for value in average):
        raise Refused(what)
    if len(average) != len(net):
        raise Refused(f"its moving average has {len(average)} tensors and its network {len(net)}; they must agree")
    both = {f"net/{name}": value for name, value in net.items()}
    return both | {f"ema/{name}": value for name, value in zip(net, average, strict=True)}


def _weights(stored: Any) -> dict[str, Any]:
    """The tensors of a state dict, or the EMA weights of a checkpoint of the official I2SB code."""
    if not (isinstance(stored, dict) and {"net", "ema"} <= stored.keys()):
        return _state_dict(stored)
    return {name.removeprefix("ema/"): value for name, value in _i2sb(stored).items() if name.startswith("ema/")}


WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Keys by which training codes of restoration networks keep a state dict; the average before the raw weights."""


def _wrapped(stored: Any) -> dict[str, Any]:
    keys = [key for key in WRAPPERS if isinstance(stored, dict) and isinstance(stored.get(key), dict)]
    return _state_dict(stored[keys[0]] if keys else stored)


def limit(memory: int, final: bool) -> None:
    """Limit the address space of this process to its present size plus `memory` bytes.

    Args:
        memory: Additional bytes.
        final: Whether the limit cannot be raised again.
    """
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = used + memory if hard == resource.RLIM_INFINITY else min(used + memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted if final else hard))
    except (ImportError, OSError):  # not available on every system; the parent's time limit is
        return


def limit_time(seconds: int) -> None:
    """Limit the processor time of this process: the time on the clock depends on what else the machine does."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    except (ImportError, OSError, ValueError):  # not available on every system; the parent's time limit is
        return


FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.", "socket.", "ctypes.dlopen")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(FORBIDDEN):
        os._exit(70)  # an exception could be caught by code in the file


def answer(path: str, layout: str, out: str, legacy: bool) -> str | None:
    """Convert a PyTorch file to safetensors; returns None, or the reason why the file is rejected."""
    try:
        limit(256 * 2**20, final=False)
        sizes = examine(path, legacy)
        size = Path(path).stat().st_size
        limit(64 * 2**30, final=False)
        from safetensors.torch import save_file  # imports torch

        limit(256 * 2**20 + 3 * size, final=True)
        sys.addaudithook(_watch)
        save_file(load(path, layout, sizes), out)
    except Refused as refused:
        return str(refused)
    except MemoryError:
        return "needs more memory than a valid file of its size: damaged or malicious"
    except OSError as error:
        return f"cannot be read and rewritten to the temporary folder ({error.strerror or error})"
    return None


if __name__ == "__main__":
    path, layout, out, legacy, seconds = sys.argv[1:]
    limit_time(int(seconds))
    refusal = answer(path, layout, out, legacy == "legacy")
    print(json.dumps(refusal))
