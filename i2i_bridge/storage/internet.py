"""Internet access: off unless a command downloads, and blocked under `--offline` or `I2I_OFFLINE=1`.

Only `data fetch`, `weights fetch`, `share push|pull`, runs named `owner/name` that are no folder, and datasets with
`download = true` connect to other machines.
"""

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from i2i_bridge.errors import UserError

VARIABLE = "I2I_OFFLINE"
LIBRARIES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "NO_ALBUMENTATIONS_UPDATE")
"""Environment variables by which libraries are told to stay offline; read when a library is imported."""
EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")

_blocks: list[frozenset[str]] = []
_watched = False


def is_offline() -> bool:
    """Whether the user forbade the internet for this process."""
    return os.environ.get(VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def go_offline() -> None:
    """Block internet access for this process, its libraries and the processes that it starts."""
    os.environ[VARIABLE] = "1"
    for name in LIBRARIES:
        os.environ[name] = "1"
    os.environ["WANDB_MODE"] = "offline"
    _watch()


def require(what: str) -> None:
    """Check that internet access is allowed.

    Args:
        what: The operation, for the message.

    Raises:
        UserError: The user forbade it.
    """
    if is_offline():
        raise UserError(f"{what} needs the internet, which --offline (or {VARIABLE}=1) forbids")


@contextlib.contextmanager
def closed(also: Iterable[str] = ()) -> Iterator[None]:
    """Block connections to other machines inside the block; a file could otherwise make a library fetch a URL.

    Args:
        also: Further hosts of this machine, as `addresses` returns them.
    """
    _watch()
    block = frozenset(host.lower() for host in also)
    _blocks.append(block)
    try:
        yield
    finally:
        _blocks.remove(block)


def addresses(host: str) -> list[str]:
    """A host that this process will listen on, and its addresses. A name is looked up, even under `--offline`.

    Raises:
        OSError: There is no such host.
    """
    with closed([host]):
        return [host, *(str(entry[4][0]) for entry in socket.getaddrinfo(host, None))]


def _watch() -> None:
    # An audit hook cannot be removed, so it is installed once and checks the current state at each event.
    global _watched
    if not _watched:
        _watched = True
        sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in EVENTS and (_blocks or is_offline()) and not _is_local(event, arguments):
        raise OSError(errno.ENETUNREACH, f"the internet is not used here (--offline, {VARIABLE}, or a local dataset)")


def _is_local(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an address belongs to this machine; data workers and `accelerate launch` use local addresses."""
    address = arguments[0] if event in ("socket.getaddrinfo", "socket.gethostbyname") else arguments[-1]
    host = address[0] if isinstance(address, tuple) else address
    if isinstance(address, tuple) or event in ("socket.getaddrinfo", "socket.gethostbyname"):
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
        local = ("", "localhost", "::1", "::", "0.0.0.0", socket.gethostname())
        # A tuple, since another thread may open or close a block.
        return name in local or name.startswith("127.") or any(name.lower() in block for block in tuple(_blocks))
    return True  # a Unix domain socket, or a socket that is already connected
