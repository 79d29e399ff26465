"""Hugging Face datasets: a local folder or file, or a dataset of the hub, with images selected by column names."""

import os
from pathlib import Path
from typing import Any

from PIL import Image

from i2i_bridge.data.index import Names
from i2i_bridge.data.source import is_integer
from i2i_bridge.data.sources.folders import Files
from i2i_bridge.data.splits import split_names, split_positions
from i2i_bridge.errors import UserError, did_you_mean, readable
from i2i_bridge.registry import register_dataset
from i2i_bridge.storage import internet
from i2i_bridge.storage.names import leads_out
from i2i_bridge.storage.reader import MEGABYTE, read_json, read_text

BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}
CARD, CARD_ALONE = "README.md", ".huggingface.yaml"
"""Files in which a dataset folder assigns its data files to splits."""


@register_dataset("huggingface")
class HubImages:
    """Rows of a Hugging Face dataset.

    Args:
        root: A local dataset: a folder written by save_to_disk, a folder of data files, or a data file.
        hub: Name of a dataset on the hub, instead of root; needs `download = true`.
        download: Allow internet access for a dataset of the hub. With --offline it must be in the library's cache.
        config: Configuration of the dataset.
        revision: Commit, tag or branch of the dataset.
        x_0: Column of the clean or target image: images, bytes of image files, or paths relative to root.
        x_1: Column of the degraded or source image; without it the items are clean images, to be degraded.
        mask: Column of the mask.
        condition: Column of the condition.
        label: Column of an integer label.
        key: Column of the item's name; by default the row number.
        splits: The dataset's names of the splits, such as {val = "validation"}; usual names are found without it.
        holdout: Share of the rows held out of training, if the dataset has a single split.
    """

    def __init__(
        self,
        split: str,
        root: Path | None = None,
        hub: str | None = None,
        download: bool = False,
        config: str | None = None,
        revision: str | None = None,
        x_0: str = "image",
        x_1: str | None = None,
        mask: str | None = None,
        condition: str | None = None,
        label: str | None = None,
        key: str | None = None,
        splits: dict[str, str] | None = None,
        holdout: float = 0.0,
    ) -> None:
        if (root is None) == (hub is None):
            raise UserError("a Hugging Face dataset needs `root`, a folder or file, or `hub`, a name on the hub")
        if hub is not None and not download:
            raise UserError(f"'{hub}' lies on the hub: `download = true` allows to fetch it, `root` names a local copy")
        self.where = str(root or hub)
        parts = _local(root, config) if root is not None else _fetched(str(hub), config, revision)
        self.root = root if root is not None and root.is_dir() else Path(self.where).parent
        self.places = _caches() if root is None else [self.root.absolute(), self.root.resolve()]
        name, shared = self._split(parts, split, splits or {}, holdout)
        self.split, rows = name, parts[name]
        wanted = {"x_0": x_0, "x_1": x_1, "mask": mask, "condition": condition, "label": label, "key": key}
        self.columns = {part: column for part, column in wanted.items() if column is not None}
        for column in self.columns.values():
            if column not in rows.column_names:
                raise UserError(f"{self.where}: no column '{column}'{did_you_mean(column, rows.column_names)}")
        self.rows = _undecoded(rows.select_columns(sorted(set(self.columns.values()))))
        count = len(rows)
        self.positions = split_positions(Names(map(str, range(count))), split, holdout if shared else 0.0)
        self.files = Files(Path(self.where, name), Names(map(str, self.positions)))

    def _split(self, parts: Any, split: str, splits: dict[str, str], holdout: float) -> tuple[str, bool]:
        """The dataset's name of a split, and whether it is the only one, shared by train, val and test."""
        if split in splits:
            if splits[split] not in parts:
                raise UserError(f"{self.where}: no split '{splits[split]}'{did_you_mean(splits[split], parts)}")
            return splits[split], False
        if len(parts) == 1 and holdout:
            return next(iter(parts)), True
        for name in split_names(split):
            if name in parts:
                return name, False
        raise UserError(
            f"{self.where}: no split '{split}'; there is {', '.join(parts)}: set `splits`, or `holdout` where it is one"
        )

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = int(self.positions[index])
        row = self.rows[position]
        item: dict[str, Any] = {
            "key": f"{self.split}/{position}",
            "file": f"{self.where}: {self.split}, row {position}",
        }
        for part, column in self.columns.items():
            value = row[column]
            if part == "key":
                item["key"] = str(value)
            elif part == "label":
                if not is_integer(value):
                    raise UserError(f"{item['file']}: the label {value!r} is no integer")
                item["label"] = int(value)
            else:
                item[part] = self._image(value, column, item["file"])
        return item

    def _image(self, value: Any, column: str, where: str) -> Any:
        if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
            value = value["path"] if value["bytes"] is None else value["bytes"]
        if isinstance(value, str):
            path = Path(os.path.normpath(self.root.absolute() / value))
            if not any(path.is_relative_to(place) for place in self.places):
                raise UserError(f"{where}: the column '{column}' leads out of {self.root}: '{value}'")
            return path
        if isinstance(value, bytes | Image.Image):
            return value
        raise UserError(f"{where}: the column '{column}' holds {type(value).__name__}, not images, bytes or paths")


def _library() -> Any:
    if internet.is_offline():
        internet.go_offline()  # before the import, at which the library reads the variables
    try:
        import datasets
    except ImportError as error:
        raise UserError("Hugging Face datasets need a package: pip install 'i2i-bridge[hub]'") from error
    return datasets


def _local(root: Path, config: str | None) -> Any:
    """The splits of a local dataset by name, loaded without internet access."""
    datasets = _library()
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    _check_card(root)
    try:
        with internet.closed():
            return _loaded(datasets, root, config)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{root}: not a readable Hugging Face dataset ({type(error).__name__}: {error})") from error


def _loaded(datasets: Any, root: Path, config: str | None) -> Any:
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        loaded = datasets.load_from_disk(str(root))
        return loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    if root.is_dir():
        return datasets.load_dataset(str(root.resolve()), name=config)
    if root.suffix not in BUILDERS:
        raise UserError(f"{root}: not a data file; known: {', '.join(BUILDERS)}")
    return datasets.load_dataset(BUILDERS[root.suffix], data_files=str(root.resolve()))


def _check_card(root: Path) -> None:
    """Reject a dataset folder whose metadata refers to paths outside the folder or to URLs, which would be read.

    Raises:
        UserError: README.md, dataset_dict.json or a state.json has such a reference or cannot be read, or the folder
            has a .huggingface.yaml.
    """
    from huggingface_hub import DatasetCard

    if (root / CARD_ALONE).exists():
        raise UserError(f"{root / CARD_ALONE}: is not read here; move its lines to the head of README.md")
    if (root / CARD).exists():
        try:
            card: Any = DatasetCard(read_text(root / CARD, MEGABYTE), ignore_metadata_errors=True)
            configs = card.data.to_dict().get("configs")
        except Exception as error:  # the YAML parser raises many types
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UserError(f"{root / CARD}: not a readable dataset card ({reason})") from error
        _check_inside(root / CARD, configs)
    splits = (_json(root / "dataset_dict.json") or {}).get("splits")
    splits = list(splits) if isinstance(splits, list | dict | str) else []
    _check_inside(root / "dataset_dict.json", splits)
    for folder in (root, *(root / str(split) for split in splits)):
        _check_inside(folder / "state.json", (_json(folder / "state.json") or {}).get("_data_files"))


def _json(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    with readable(file, errors=(OSError, ValueError)):
        table = read_json(file)
    if not isinstance(table, dict):
        raise UserError(f"{file}: cannot be read (not a JSON object)")
    return table


def _check_inside(file: Path, value: Any) -> None:
    """Reject any text inside a value that is a URL or a path outside the file's folder."""
    waiting, seen = [value], 0
    while waiting:
        inner = waiting.pop()
        seen += 1
        if seen > 100_000:  # YAML aliases can repeat a list exponentially often
            raise UserError(f"{file}: names more than 100000 places")
        if isinstance(inner, dict | list):
            waiting += [*inner, *inner.values()] if isinstance(inner, dict) else inner
        elif isinstance(inner, str) and leads_out(inner):
            raise UserError(f"{file}: names '{inner}', which is not in this folder; nothing outside of it is read")


def _caches() -> list[Path]:
    """The cache folders of the library."""
    from huggingface_hub import constants

    config = _library().config
    return [
        Path(place).absolute() for place in (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)
    ]


def _fetched(name: str, config: str | None, revision: str | None) -> Any:
    datasets = _library()
    if internet.is_offline() and not datasets.config.HF_HUB_OFFLINE:
        internet.require(f"hub '{name}'")  # the library was imported before offline mode was set, and would connect
    try:
        return datasets.load_dataset(name, name=config, revision=revision)
    except Exception as error:  # several packages raise many types
        hint = f" (--offline or {internet.VARIABLE}=1 forbids to fetch it)" if internet.is_offline() else ""
        raise UserError(f"hub '{name}': {type(error).__name__}: {str(error)[:150]}{hint}") from error


def _undecoded(rows: Any) -> Any:
    """Disable decoding of image columns: `read_picture` decodes them, with limits, 16 bits and EXIF orientation."""
    datasets = _library()
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows
