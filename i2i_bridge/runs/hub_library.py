"""The library huggingface_hub: used where the internet is allowed, with its errors as one line each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from i2i_bridge import __version__
from i2i_bridge.console import is_watched
from i2i_bridge.errors import UserError, brief
from i2i_bridge.storage import internet

if TYPE_CHECKING:
    from types import ModuleType


def hub_options() -> dict[str, Any]:
    """Options of each call of the library: the site, and name and version of this package."""
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return {"endpoint": endpoint, "library_name": "i2i-bridge", "library_version": __version__}


@contextmanager
def hub_library(name: str) -> Iterator["ModuleType"]:
    """Context with the library huggingface_hub, whose errors become one line each.

    Raises:
        UserError: Offline mode, or the library is missing or raised an error.
    """
    internet.require(f"'{name}' on the Hub")
    try:
        import huggingface_hub
        from huggingface_hub import errors
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise UserError("the Hub needs a package: pip install 'i2i-bridge[share]'") from error
    if not is_watched():
        disable_progress_bars()
    try:
        yield huggingface_hub
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name}: its owner gives access on request: ask on the repository's page, and log in (hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name}: the repository has no such commit, tag or branch") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: no such run on the Hub, or a private one: check the name, or log in (hf auth login)"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(f"{name}: HF_HUB_OFFLINE forbids the internet; unset it") from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise UserError(
                f"{name}: not allowed to you; log in with a token that may write (hf auth login)"
            ) from error
        raise UserError(f"{name}: the Hub says {code}: {brief(error, 150)}; try again later") from error
    except Exception as error:  # several packages raise many types
        raise UserError(
            f"{name}: the Hub did not answer ({type(error).__name__}: {brief(error, 120)}); check the connection and "
            "give the same command again"
        ) from error
