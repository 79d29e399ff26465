"""The user's store of dataset cards and of the locations of fetched datasets, as small TOML files.

The store is `$I2I_HOME`, or `~/.config/i2i-bridge`: `datasets/NAME.toml` is a card written by `data add`, and
`fetched/NAME.toml` records the folder of a card's dataset and the downloaded files.
"""

import os
from pathlib import Path

from i2i_bridge.errors import UserError, located
from i2i_bridge.storage.files import remove, write_whole
from i2i_bridge.storage.table import Table, validated
from i2i_bridge.storage.toml import read_toml


class Place(Table):
    """The location and origin of a fetched dataset."""

    folder: Path
    sha256: dict[str, str]
    """SHA-256 of the downloaded files, by name; another fetch must give the same files."""

    def to_toml(self) -> str:
        """The record as TOML."""
        import tomlkit

        return tomlkit.dumps(self.model_dump(mode="json"))


def store_folder() -> Path:
    """The folder of the store, the same on every system, as the documentation names it."""
    if folder := os.environ.get("I2I_HOME"):
        return Path(folder)
    try:
        return Path("~/.config/i2i-bridge").expanduser()
    except RuntimeError:  # a user without a home folder, as in a container
        return Path(".i2i-bridge")


def own_card_file(name: str) -> Path:
    """The file of a user's card, which need not exist."""
    return store_folder() / "datasets" / f"{name}.toml"


def own_card_names() -> list[str]:
    """Names of the user's cards."""
    return sorted(path.stem for path in (store_folder() / "datasets").glob("*.toml") if not path.name.startswith("."))


def place_file(name: str) -> Path:
    """The file with the record of a fetched dataset, which need not exist."""
    return store_folder() / "fetched" / f"{name}.toml"


def read_place(file: Path) -> Place | None:
    """Read the record of a fetched dataset; None if the file does not exist.

    Raises:
        UserError: The file is damaged.
    """
    try:
        return validated(Place, read_toml(file), file) if os.path.lexists(file) else None
    except UserError as error:
        raise UserError(f"{error}; delete it") from error


def remember_place(name: str, place: Place) -> None:
    """Write the record of a fetched dataset; `load_card` takes the dataset's root from it."""
    write_whole(place_file(name), place.to_toml().encode())


def forget(name: str) -> list[Path]:
    """Delete a user's card and the record of its fetched dataset; the data is not deleted.

    Returns:
        The deleted files.

    Raises:
        UserError: There is neither a card nor a record of this name, or a file cannot be deleted.
    """
    gone = []
    # Only files listed in their folder; otherwise a name such as '../x' could delete other files.
    for file in (own_card_file(name), place_file(name)):
        if file in file.parent.glob("*.toml"):
            with located(file, "cannot be deleted", OSError):
                remove(file)
            gone.append(file)
    if not gone:
        raise UserError(f"'{name}' is not registered; `i2i-bridge list datasets` shows all")
    return gone
