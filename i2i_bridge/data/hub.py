"""Hugging Face datasets: a local folder or file of theirs, or a name on their hub, by column names."""

from pathlib import Path
from typing import Any

from PIL import Image

from i2i_bridge.data.index import Names
from i2i_bridge.data.items import is_integer
from i2i_bridge.data.pairs import Files
from i2i_bridge.data.splits import keep, split_names
from i2i_bridge.errors import UserError
from i2i_bridge.registry import did_you_mean, register_dataset

BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}


@register_dataset("huggingface")
class HubImages:
    """Rows of a Hugging Face dataset.

    Args:
        root: What lies on this machine: a folder that save_to_disk wrote, a folder of data files, or one such file.
        hub: In place of root: a name on the hub; needs `download = true`.
        download: Allow the network, for a dataset of the hub.
        config: Which configuration of it.
        revision: Which commit, tag or branch of it.
        x_0: Column of the clean or target image: images, bytes of image files, or paths that start at root.
        x_1: Column of the degraded or source image; none: clean images, to be degraded.
        mask: Column of the mask.
        condition: Column of the condition.
        label: Column of an integer.
        key: Column of a name; by default the row's number.
        splits: What the dataset calls our splits: {val = "validation"}; usual names need not be said.
        holdout: Where it has one split only: this share of the rows is held out of training.
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
        name, shared = self._split(parts, split, splits or {}, holdout)
        self.split, rows = name, parts[name]
        wanted = {"x_0": x_0, "x_1": x_1, "mask": mask, "condition": condition, "label": label, "key": key}
        self.columns = {part: column for part, column in wanted.items() if column is not None}
        for column in self.columns.values():
            if column not in rows.column_names:
                raise UserError(f"{self.where}: no column '{column}'{did_you_mean(column, rows.column_names)}")
        self.rows = _undecoded(rows.select_columns(sorted(set(self.columns.values()))))
        count = len(rows)
        self.positions = keep(Names(map(str, range(count))), split, holdout if shared else 0.0)
        self.files = Files(Path(self.where, name), Names(map(str, self.positions)))

    def _split(self, parts: Any, split: str, splits: dict[str, str], holdout: float) -> tuple[str, bool]:
        """The dataset's name of a split, and whether all our splits share it."""
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
            return self.root / value
        if isinstance(value, bytes | Image.Image):
            return value
        raise UserError(f"{where}: the column '{column}' holds {type(value).__name__}, not images, bytes or paths")


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError("Hugging Face datasets need a package: pip install 'i2i-bridge[hub]'") from error
    return datasets


def _local(root: Path, config: str | None) -> Any:
    """The splits by name; nothing but local files is looked at."""
    datasets = _library()
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    try:
        if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
            loaded = datasets.load_from_disk(str(root))
            return loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
        if root.is_dir():
            return datasets.load_dataset(str(root.resolve()), name=config)
        if root.suffix not in BUILDERS:
            raise UserError(f"{root}: not a data file; known: {', '.join(BUILDERS)}")
        return datasets.load_dataset(BUILDERS[root.suffix], data_files=str(root.resolve()))
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{root}: not a readable Hugging Face dataset ({type(error).__name__}: {error})") from error


def _fetched(name: str, config: str | None, revision: str | None) -> Any:
    datasets = _library()
    try:
        return datasets.load_dataset(name, name=config, revision=revision)
    except Exception as error:  # the network's and the hub's own kinds, of several packages
        raise UserError(f"hub '{name}': {type(error).__name__}: {error}") from error


def _undecoded(rows: Any) -> Any:
    """Image columns as bytes: our decoder knows the limits, 16 bits and EXIF."""
    datasets = _library()
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows
