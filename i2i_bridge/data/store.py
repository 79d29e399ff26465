"""What a user told us about datasets: cards of their own, and where a fetched dataset lies. Small TOML files.

They lie in `$I2I_HOME`, or else in `~/.config/i2i-bridge`: `datasets/NAME.toml` is a card that `data add` wrote, and
`fetched/NAME.toml` says in which folder the dataset of a card lies, and which files it came from.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from i2i_bridge.errors import UserError
from i2i_bridge.storage.files import remove, write_whole
from i2i_bridge.storage.toml import read_toml


class Place(BaseModel):
    """Where a fetched dataset lies."""

    model_config = ConfigDict(extra="forbid")

    folder: Path
    sha256: dict[str, str]
    """Of each downloaded file, by its name: whoever fetches again gets the same content, or a refusal."""

    def to_toml(self) -> str:
        """The place as TOML."""
        import tomlkit

        return tomlkit.dumps(self.model_dump(mode="json"))


def store_folder() -> Path:
    """The folder of everything that a user registered."""
    if given := os.environ.get("I2I_HOME"):
        return Path(given)
    try:
        return Path("~/.config/i2i-bridge").expanduser()
    except RuntimeError:  # a container's user without a home
        return Path(".i2i-bridge")


def own_card_file(name: str) -> Path:
    """The file of a user's own card, there or not."""
    return store_folder() / "datasets" / f"{name}.toml"


def own_card_names() -> list[str]:
    """Names of the user's own cards."""
    return sorted(path.stem for path in (store_folder() / "datasets").glob("*.toml") if not path.name.startswith("."))


def place_file(name: str) -> Path:
    """The file that says where a card's dataset was fetched to, there or not."""
    return store_folder() / "fetched" / f"{name}.toml"


def read_place(file: Path) -> Place | None:
    """What such a file says, or None where there is none.

    Raises:
        UserError: The file is damaged.
    """
    try:
        return Place.model_validate(read_toml(file)) if os.path.lexists(file) else None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}; delete it") from error
    except UserError as error:
        raise UserError(f"{error}; delete it") from error


def remember_place(name: str, place: Place) -> None:
    """Lets the card of that name find its images from now on."""
    write_whole(place_file(name), place.to_toml().encode())


def forget(name: str) -> list[Path]:
    """Deletes a user's own card and the record of where it was fetched to, never any data; what was deleted.

    Raises:
        UserError: Nothing was registered under this name, or it cannot be deleted.
    """
    gone = []
    # Only names that are there: a name such as '../x' is nobody's.
    for file in (own_card_file(name), place_file(name)):
        if file in file.parent.glob("*.toml"):
            try:
                remove(file)
            except OSError as error:
                raise UserError(f"{file}: cannot be deleted ({error.strerror})") from error
            gone.append(file)
    if not gone:
        raise UserError(f"'{name}' is not registered; `i2i-bridge list datasets` shows all")
    return gone
