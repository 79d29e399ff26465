"""Read tensors from untrusted `.pt` and `.safetensors` files without executing code from them.

A `.pt` is converted to safetensors in a child process (`pt_reader.py`) with limited memory and time; this process never
unpickles. A `.safetensors` contains no code; its header is checked before the library reads it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.storage import pt_reader
from i2i_bridge.storage.reader import open_regular

SECONDS, BYTES_PER_SECOND = 60, 20_000_000
"""Processor time of the child process: SECONDS, plus one second per BYTES_PER_SECOND of the file."""
PATIENCE = 10
"""Time on the clock of the child process, as a multiple of its processor time; a machine may be busy."""
MAX_HEADER, MAX_TENSORS = 16 * 2**20, 50_000
"""Maximum header bytes and number of tensors of a safetensors file."""


Layout = Literal["state dict", "i2sb", "weights", "wrapped"]


def read_pt(file: Path, layout: Layout = "state dict", *, legacy: bool = False) -> Any:
    """The tensors of a PyTorch file by name, on the CPU, all finite and dense.

    Args:
        file: The file.
        layout: "state dict": tensors by name. "i2sb": a checkpoint of the official I2SB code, whose weights are named
            'net/NAME' and 'ema/NAME'; its optimizer state is ignored. "weights": either; of a checkpoint
            of the official code the EMA weights, by the names of its network. "wrapped": a state dict, also in a
            dictionary under a name such as 'params_ema'.
        legacy: Also accept the format of PyTorch before 1.6; only for files whose hash is known.

    Raises:
        UserError: The file is missing, damaged, has another structure or contains anything but tensors.
    """
    with tempfile.TemporaryDirectory(prefix="i2i-bridge-", ignore_cleanup_errors=True) as folder:
        out = Path(folder, "tensors.safetensors")
        # -P: otherwise modules in the folder of the script would shadow packages of the same name.
        command = [sys.executable, "-P", pt_reader.__file__, os.fspath(file.absolute()), layout, str(out)]
        try:
            seconds = SECONDS + file.lstat().st_size // BYTES_PER_SECOND
            finished = subprocess.run(
                [*command, "legacy" if legacy else "zip", str(seconds)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE * seconds,
                check=False,
            )
            refusal = json.loads(finished.stdout) if finished.returncode == 0 else _limits_exceeded(seconds)
        except subprocess.TimeoutExpired:
            refusal = _limits_exceeded(seconds)
        except FileNotFoundError as error:
            raise UserError(f"{file}: no such file") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        if refusal is not None:
            raise UserError(f"{file}: {refusal}")
        return read_safetensors(out)


def _limits_exceeded(seconds: int) -> str:
    return f"could not be read within {seconds} s and the memory of its size: damaged or malicious"


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU, all finite.

    Raises:
        UserError: The file is damaged, has a duplicate name, too many tensors, or values that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        _check_header(file)
        tensors = load_file(file)
    except (SafetensorError, ValueError, RecursionError, MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{file}: not a readable safetensors file ({reason})") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    for name, value in tensors.items():
        if not all_finite(value):
            raise UserError(f"{file}: '{name[:80]}' holds numbers that are not finite")
    return tensors


def all_finite(value: Tensor) -> Tensor:
    """Whether a tensor of any dtype holds no NaN and no infinity, as a tensor of one bool on the same device."""
    # isfinite is not implemented for float8 dtypes.
    return (value if value.element_size() > 1 else value.to(torch.float32)).isfinite().all()


def _check_header(file: Path) -> None:
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes; at most {MAX_HEADER} are read")
        header = json.loads(stream.read(length), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("its header is no table of tensors")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"more than {MAX_TENSORS} tensors")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name comes twice")
    return table
