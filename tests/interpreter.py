"""Python programs in processes of their own, forked from a server that has imported torch.

A fresh interpreter spends one and a half seconds of a processor on that import, more than most commands of tests
compute. The server has imported nothing of i2i_bridge. Tests of the start of a program, of signals and of process
groups start real interpreters instead.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
# No library that reads its environment at import, as those of Hugging Face and matplotlib do.
SERVER.set_forkserver_preload(["torch", "numpy", "PIL.Image", "pydantic", "safetensors.torch"])
MEASURED = "coverage" in sys.modules
"""`make coverage`, which follows real interpreters alone: then each program is one."""
TESTS, FIRST = Path(__file__).parent, os.getpid()


def python(
    *words: str, cwd: Path | str = ".", env: Mapping[str, str] | None = None, timeout: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `python WORDS` to its end: "-c" and code, "-m" and a module, or a script; then arguments.

    Raises:
        TimeoutExpired: It took longer, in seconds, and was killed.
    """
    if MEASURED:
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, check=False
        )
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("out", "err")]
        process = SERVER.Process(target=_program, args=(words, str(cwd), dict(env or os.environ), outputs))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["python", *words], timeout or 0)
        texts = [file.read_text(encoding="utf-8", errors="backslashreplace") for file in outputs if file.exists()]
        return subprocess.CompletedProcess(["python", *words], process.exitcode, *texts)


class Subprocess:
    """In place of the module `subprocess` in product code that runs a script by this interpreter."""

    DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired

    @staticmethod
    def run(
        command: list[str], *, timeout: float | None = None, **options: object
    ) -> "subprocess.CompletedProcess[str]":
        # A fork of the tests' process cannot reach the server.
        if MEASURED or os.getpid() != FIRST:
            return subprocess.run(command, timeout=timeout, **options)  # type: ignore[call-overload]
        return python(*command[1:], timeout=timeout)


def _program(words: tuple[str, ...], cwd: str, env: dict[str, str], outputs: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, file in enumerate([os.devnull, *outputs]):
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", encoding="utf-8", errors=errors, closefd=False)
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    multiprocessing.process._parent_process = None  # as in a program
    given = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    installed = [path for path in sys.path if path and not Path(path).is_relative_to(TESTS)]
    first, *rest = words[1:] if words[0] == "-P" else words
    sys.path[:] = [cwd if first in ("-c", "-m") else str(Path(first).parent), *given, *installed]
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")
