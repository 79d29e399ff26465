"""Dataset cards: TOML files that describe a dataset, its download, its licence and its layout on disk."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from i2i_bridge import registry
from i2i_bridge.data import store
from i2i_bridge.errors import UserError, did_you_mean
from i2i_bridge.storage.download import Download, download_name
from i2i_bridge.storage.names import expanded, file_name
from i2i_bridge.storage.shipped import shipped_folder
from i2i_bridge.storage.table import Table, validated
from i2i_bridge.storage.toml import read_toml

if TYPE_CHECKING:
    from i2i_bridge.data.source import PairSource


class Advice(Table):
    """The geometry used by the dataset's authors for training; keys as in [data] of a recipe."""

    resize: Literal["short_side", "stretch", "none"]
    load_size: int | None = None
    """Jitter: resize to this size, then crop. None: no jitter."""
    crop: Literal["random", "center"] = "center"
    flip: bool


class Statistics(Table):
    """Median brightness, contrast, detail and colour (`statistics.looks`) of x_0 and x_1."""

    x_0: Annotated[list[float], Field(min_length=4, max_length=4)]
    x_1: Annotated[list[float], Field(min_length=4, max_length=4)]


class Card(Table):
    """A dataset description."""

    name: Annotated[str, AfterValidator(file_name)]
    summary: str
    homepage: str = ""
    licence: str = ""
    """Name of the licence, or the terms in a few words."""
    terms: str = ""
    """Permitted and forbidden uses, in a sentence or two."""
    citation: str = ""
    size: str = ""
    """Approximate download size; exact sizes are given in [[download]]."""
    checksum: str = ""
    """Source of the hash in [[download]], or 'unpublished'."""
    layout: str = ""
    """Folders and file names of the published dataset."""
    top: Annotated[str, Field(pattern=r"^([\w-][\w.-]*(/[\w-][\w.-]*)*)?$")] = ""
    """The folder inside the download that becomes the dataset folder; by default the whole download."""
    protocol: str = ""
    """The usual evaluation protocol in publications."""
    note: str = ""
    splits: dict[str, int] = Field(default_factory=dict)
    """Number of images by split."""
    sides: dict[str, str] = Field(default_factory=dict)
    """Contents of A (left) and B (right) of a side-by-side file."""
    advice: Advice | None = None
    channels: Annotated[int, Field(gt=0, le=4096)] | None = None
    """Default of data.channels in recipes."""
    value_range: tuple[float, float] | None = None
    """Default of data.value_range in recipes."""
    statistics: Statistics | None = None
    """Measured by `data add`; `check` detects exchanged sides by them."""
    dataset: dict[str, Any]
    """The dataset kind (`name`) and its options; `root` may be missing and given by the user."""
    download: list[Download] = Field(default_factory=list)

    @model_validator(mode="after")
    def _files_apart(self) -> "Card":
        # URLs may have equal last parts: the second file gets a number; otherwise it would overwrite the first.
        taken: set[str] = set()
        for source in self.download:
            stem, dot, suffix = download_name(source.url).partition(".")
            names = (f"{stem}{'' if n == 1 else f'-{n}'}{dot}{suffix}" for n in itertools.count(1))
            source._file = next(name for name in names if name.casefold() not in taken)
            taken.add(source._file.casefold())
        return self

    def to_toml(self) -> str:
        """The card as TOML."""
        import tomlkit

        return tomlkit.dumps(self.model_dump(exclude_defaults=True, exclude_none=True))


def card_file(name: str) -> Path:
    """The file of a shipped card or of a user's card.

    Raises:
        UserError: There is no card of this name (the message names the nearest), or there are both.
    """
    is_shipped, is_users = name in shipped_card_names(), name in store.own_card_names()
    if is_shipped and is_users:
        raise UserError(f"'{name}' is a shipped card and your own: rename {store.own_card_file(name)}")
    if not is_shipped and not is_users:
        raise UserError(f"no dataset card '{name}'{did_you_mean(name, card_names())}")
    return store.own_card_file(name) if is_users else shipped_folder("datasets") / f"{name}.toml"


def shipped_card_names() -> list[str]:
    """Names of the shipped cards."""
    return sorted(path.stem for path in shipped_folder("datasets").glob("*.toml"))


def card_names() -> list[str]:
    """Names of the shipped cards and of the user's cards."""
    return sorted({*shipped_card_names(), *store.own_card_names()})


def load_card(name: str | Path) -> Card:
    """Load a card by name or from a TOML file.

    A relative `root` is relative to the card's folder. The `root` of a named card whose dataset was fetched is the
    fetched folder.

    Raises:
        UserError: There is no such card (the message names the nearest), or the file is invalid.
    """
    by_name = Path(name).suffix != ".toml"
    path = card_file(str(name)) if by_name else expanded(name)
    card = validated(Card, read_toml(path), path)
    if "root" in card.dataset and path.parent != shipped_folder("datasets"):
        # Relative to the card's folder, not to the current folder; an absolute path is unchanged.
        card.dataset["root"] = str(path.parent / str(card.dataset["root"]))
    elif "root" not in card.dataset and by_name and (fetched := store.read_place(store.place_file(str(name)))):
        card.dataset["root"] = str(fetched.folder)
    return card


def is_card(file: Path) -> bool:
    """Whether a TOML file is a dataset card, not a recipe: it has a table [dataset]."""
    try:
        return "dataset" in read_toml(file)
    except UserError:
        return False


def open_source(table: Mapping[str, Any], split: str) -> "PairSource":
    """Construct the dataset of a table [dataset], for a split.

    Raises:
        UserError: The table is invalid, or the split has no items.
    """
    options = dict(table)
    root = registry.DATASETS.options(str(options.get("name"))).get("root")
    if root is not None and root.default is root.empty and "root" not in options:
        raise UserError(
            "the dataset needs to know where it lies: add data.root=FOLDER, or see: i2i-bridge data fetch --help"
        )
    source: PairSource = registry.DATASETS.build(options, split=split)
    if len(source) == 0:
        raise UserError(f"the dataset '{options['name']}' has no items in the split '{split}'")
    return source
