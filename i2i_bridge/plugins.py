"""Code of users: files given by `--plugin FILE.py`, plug-ins of installed packages, and the errors raised in them."""

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from i2i_bridge.errors import UserError, one_line

RAISED = (Exception, SystemExit)
"""Exceptions of a user's code; without SystemExit a plug-in that calls sys.exit would end the command silently."""
_files: list[str] = []
"""Absolute paths of the files that `load_plugin` imported."""
_sources: set[str] = set()
"""Absolute paths of the files that define users' members, of an imported module or of a plug-in."""


def add_source(module: str) -> None:
    """Note the file of a module that registers a user's member; `plugin_error` then names its lines."""
    _sources.add(str(Path(getattr(sys.modules.get(module), "__file__", None) or module).resolve()))


def plugin_error(error: BaseException) -> UserError | None:
    """Convert an exception raised in a user's file to a `UserError` that names the file, line and function.

    Returns None if the traceback contains no line of a user's file, and for a `UserError` or an out-of-memory error.
    """
    if isinstance(error, UserError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return None
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if str(Path(frame.filename).resolve()) in _sources
    ]
    if not frames:
        return _signature_error(error)
    message = str(error) or "no message"
    return UserError(
        f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}: {type(error).__name__}: {message}"
    )


def _signature_error(error: BaseException) -> UserError | None:
    """Convert the TypeError of a call with wrong arguments; the traceback then has no line of the called function."""
    call = re.match(r"([\w.]+)\(\) (takes|missing|got) ", str(error)) if isinstance(error, TypeError) else None
    if call is None:
        return None
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or str(Path(file).resolve()) not in _sources:
            continue
        function: Any = module
        for part in call[1].split("."):
            function = getattr(function, part, None)
        code = getattr(function, "__code__", None)
        if code is not None:
            return UserError(f"{code.co_filename}, line {code.co_firstlineno}: {type(error).__name__}: {error}")
    return None


@contextmanager
def plugin_errors() -> Iterator[None]:
    """Context for calling a member: converts an exception raised in a user's file by `plugin_error`.

    Raises:
        UserError: A user's file raised any exception.
    """
    try:
        yield
    except RAISED as error:
        converted = plugin_error(error)
        if converted is None:
            raise
        raise converted from error


def loaded_plugins() -> list[str]:
    """The files that `load_plugin` imported; a spawned process must import them again."""
    return list(_files)


def load_plugin(file: Path | str) -> None:
    """Import a user's Python file; the members that it registers can then be named in a recipe.

    The file is one given by the user (`--plugin FILE.py`), never a path read from a recipe or run folder.

    Raises:
        UserError: The file is missing, is not a .py file, or fails while it is imported.
    """
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"--plugin {path}: not an existing .py file")
    place, name = str(path.resolve()), f"i2i_plugin_{path.stem}"
    if str(Path(getattr(sys.modules.get(name), "__file__", None) or place).resolve()) != place:
        # Another folder's file of this name: replaced in sys.modules, its classes could not be unpickled any more.
        name += f"_{hashlib.sha256(place.encode()).hexdigest()[:12]}"
    if place in _files and name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # Added before execution, as an import does; otherwise data-loader workers cannot unpickle the module's classes.
    sys.modules[name] = module
    _sources.add(place)
    try:
        spec.loader.exec_module(module)
    except RAISED as error:
        del sys.modules[name]
        if isinstance(error, UserError):
            raise UserError(f"--plugin {path}: {error}") from error
        # A syntax error leaves no frame of the file in the traceback; the line number is in the error itself.
        if isinstance(error, SyntaxError) and error.filename == str(path):
            raise UserError(f"--plugin {path}, line {error.lineno}: {type(error).__name__}: {error.msg}") from error
        raise UserError(f"--plugin {plugin_error(error) or f'{path}: {type(error).__name__}: {error}'}") from error
    _files.append(place)


PLUGIN_GROUP = "i2i_bridge.plugins"
"""The entry-point group of installed plug-ins."""


_installed: list[str] | None = None
"""Name, package, version and module of each imported installed plug-in; None before `load_installed_plugins`."""
_broken: list[str] = []
"""A line for each installed plug-in that cannot be imported."""


def load_installed_plugins() -> None:
    """Import, once, the modules that installed packages declare in the entry-point group `i2i_bridge.plugins`.

    Called when a name is looked up that no member has, and when names are listed. All of them are imported: a name out
    of a recipe chooses none. A module that cannot be imported is left out, see `broken_plugins`: otherwise one broken
    package would stop every command that lists names.
    """
    global _installed
    if _installed is not None:
        return
    from importlib import metadata

    # Set before the imports: the modules may call the registries while they are imported.
    _installed = []
    for entry in metadata.entry_points(group=PLUGIN_GROUP):
        package = "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
        try:
            entry.load()
        except RAISED as error:
            reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            _broken.append(one_line(f"the installed package {package}, plug-in '{entry.name}': not loaded: {reason}"))
        else:
            _installed.append(f"{entry.name} {package} {entry.value}")


def broken_plugins() -> list[str]:
    """A line for each installed plug-in that `load_installed_plugins` could not import: package, name and error."""
    return list(_broken)


def plugin_digests() -> list[str]:
    """SHA-256 of each plug-in: part of the identity of a result, which the plug-in's code may affect.

    Of a file given by `--plugin` its content, of an installed plug-in the package's name and version.
    """
    files = [Path(file).read_bytes() for file in loaded_plugins()]
    return [hashlib.sha256(data).hexdigest() for data in [*files, *(text.encode() for text in _installed or [])]]
