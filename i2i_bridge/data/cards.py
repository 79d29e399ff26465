"""Dataset cards: what a dataset is, where it comes from, and how it lies on disk. TOML, no code."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from i2i_bridge import registry
from i2i_bridge.data.pairs import PairSource
from i2i_bridge.errors import UserError
from i2i_bridge.shipped import shipped_folder


class Card(BaseModel):
    """A dataset description."""

    model_config = ConfigDict(extra="forbid")

    name: str
    summary: str
    dataset: dict[str, Any]
    """The dataset kind (`name`) and its options; `root` may be left to the user."""
    homepage: str = ""
    licence: str = ""
    citation: str = ""
    url: str = ""
    size: str = ""
    checksum: str = ""
    splits: dict[str, int] = {}
    """Images by split."""
    note: str = ""

    def to_toml(self) -> str:
        """The card as TOML."""
        import tomlkit

        return tomlkit.dumps(self.model_dump(exclude_defaults=True))


def card_file(name: str) -> Path:
    """The file of a shipped card."""
    return shipped_folder("datasets") / f"{name}.toml"


def card_names() -> list[str]:
    """Names of the shipped cards."""
    return sorted(path.stem for path in shipped_folder("datasets").glob("*.toml"))


def load_card(name: str | Path) -> Card:
    """A shipped card by name, or a user's by its TOML file, whose relative `root` starts at the card's folder.

    Raises:
        UserError: There is none (the message names the nearest), or the file is wrong.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = card_file(str(name))
        if str(name) not in card_names():
            raise UserError(f"no dataset card '{name}'{registry.did_you_mean(str(name), card_names())}")
    try:
        card = Card.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        hint = registry.did_you_mean(place, Card.model_fields) if first["type"] == "extra_forbidden" else ""
        raise UserError(f"{path}: {place}: {first['msg'].lower()}{hint}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    if Path(name) == path and "root" in card.dataset:
        # As seen from the card, wherever the command is typed; an absolute path stays itself.
        card.dataset["root"] = str(path.parent / str(card.dataset["root"]))
    return card


def is_card(file: Path) -> bool:
    """Whether a TOML file is a dataset card and not a recipe: it has a table [dataset]."""
    try:
        return "dataset" in tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def open_source(table: Mapping[str, Any], split: str) -> PairSource:
    """The dataset kind that a table describes, at a split.

    Raises:
        UserError: A wrong table, or no images.
    """
    options = dict(table)
    root = registry.DATASETS.options(str(options.get("name"))).get("root")
    if root is not None and root.default is root.empty and "root" not in options:
        raise UserError("the dataset needs to know where it lies: add data.root=FOLDER")
    source: PairSource = registry.DATASETS.build(options, split=split)
    if len(source) == 0:
        raise UserError(f"the dataset '{options['name']}' has no items in the split '{split}'")
    return source
