"""Datasets in LMDB databases of encoded images: the cache of the official I2SB code, and BasicSR's layout."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from i2i_bridge.data.index import Names
from i2i_bridge.data.sources.folders import Files, side_folders
from i2i_bridge.data.splits import list_applies, listed_positions, split_names, split_positions
from i2i_bridge.errors import UserError, located, plural
from i2i_bridge.registry import register_dataset
from i2i_bridge.storage.reader import read_lines


class Database:
    """A read-only LMDB database; no lock file is written.

    Args:
        path: The folder that contains data.mdb, or the file itself.

    Raises:
        UserError: The database is missing or damaged, or the package lmdb is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / "data.mdb" if path.is_dir() else path
        if file.exists() and not file.is_file():  # a pipe would block
            raise UserError(f"{file}: not a readable LMDB database (not a regular file)")
        with self._opened() as environment:
            last, page = environment.info()["last_pgno"], environment.stat()["psize"]
        if file.stat().st_size < (last + 1) * page:
            # Reading beyond the end of a mapped file would kill the process.
            raise UserError(
                f"{file}: truncated; {(last + 1) * page} bytes were written, {file.stat().st_size} are there"
            )

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            import lmdb
        except ImportError as error:
            raise UserError("LMDB databases need a package: pip install 'i2i-bridge[lmdb]'") from error
        # Opened for each read (about 0.1 ms): LMDB allows one open environment per file and process, and none across a
        # fork.
        with (
            located(self.path, "not a readable LMDB database", lmdb.Error),
            lmdb.open(
                str(self.path), subdir=self.path.is_dir(), readonly=True, create=False, lock=False, readahead=False
            ) as environment,
        ):
            yield environment

    def all_keys(self) -> list[str]:
        """All keys, sorted by their bytes."""
        with self._opened() as environment, environment.begin() as transaction:
            return [
                key.decode("utf-8", "surrogateescape") for key in transaction.cursor().iternext(keys=True, values=False)
            ]

    def read(self, key: str) -> bytes:
        """The value of a key.

        Raises:
            UserError: The key does not exist.
        """
        with self._opened() as environment, environment.begin() as transaction:
            value = transaction.get(key.encode("utf-8", "surrogateescape"))
        if value is None:
            raise UserError(f"{self.path}: no key '{key}'")
        return bytes(value)


@register_dataset("lmdb")
class LmdbImages:
    """Encoded images in LMDB databases.

    Layout 'i2sb', the official code's cache of ImageNet: keys are the paths of the image files on the machine that
    built the database; their last two parts CLASS/NAME are used. The items are clean images, to be degraded, with the
    class as 'label' (position in the sorted classes of the database). The pickled .lmdb.pt file is not read. Layout
    'basicsr': keys are file names without suffix, restricted to those in meta_info.txt if there is one.

    Args:
        root: The database, or the folder of the databases of the splits ('i2sb': SPLIT*.lmdb) or of both sides.
        layout: 'i2sb' or 'basicsr'.
        x_0: 'basicsr': name of the database of targets, like a folder in `paired_folders`; by default root itself.
        x_1: 'basicsr': name of the database of sources; without it the items are clean images, to be degraded.
        names: A text file, relative to root or to the folder of the database, that lists the images to use, one path
            per line, of which the last part is compared (the official 10k list). It does not apply to a training split
            that has its own database.
        holdout: Share of the items held out of training, if there are no databases of splits.
    """

    def __init__(
        self,
        root: Path,
        layout: Literal["i2sb", "basicsr"],
        split: str,
        x_0: str | None = None,
        x_1: str | None = None,
        names: str | None = None,
        holdout: float = 0.0,
    ) -> None:
        if not root.exists():
            raise UserError(f"{root}: no such folder")
        if layout == "i2sb" and (x_0 or x_1):
            raise UserError("layout 'i2sb' has one database of clean images; leave x_0 and x_1 out")
        if x_1 and not x_0:
            raise UserError("x_1 needs x_0, the name of the other database")
        paths, split_there = _paths(root, layout, split, x_0, x_1)
        self.databases = {part: Database(path) for part, path in paths.items()}
        where = paths["x_0"]
        stored = _by_end(self.databases["x_0"]) if layout == "i2sb" else _listed(self.databases)
        classes = sorted({key.rpartition("/")[0] for key in stored if "/" in key}) if layout == "i2sb" else []
        self._label = {name: number for number, name in enumerate(classes)}
        ends = sorted(stored)
        if names is not None and list_applies(split, split_there):
            ends = sorted(
                ends[i]
                for i in listed_positions(ends, root.parent / names if _is_database(root) else root / names, where)
            )
        kept = split_positions(ends, split, 0.0 if split_there else holdout)
        self.keys = Names(ends[i] for i in kept)
        self.stored = Names(stored[ends[i]] for i in kept)
        self.files = Files(where, self.keys)
        if not self.keys:
            raise UserError(f"{where}: no items for the split '{split}'")

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.keys[index]
        item: dict[str, Any] = {"key": key, "file": f"{self.databases['x_0'].path}: {key}"}
        item |= {part: database.read(self.stored[index]) for part, database in self.databases.items()}
        label = self._label.get(key.rpartition("/")[0])
        return item if label is None else item | {"label": label}


def _is_database(path: Path) -> bool:
    return (path / "data.mdb").is_file() or path.is_file()


def _paths(root: Path, layout: str, split: str, x_0: str | None, x_1: str | None) -> tuple[dict[str, Path], bool]:
    """The databases of a split, and whether they are databases of that split only."""
    if x_0 is not None:
        target, source, split_there = side_folders(root, x_0, x_1 or x_0, split)
        return {"x_0": target} | ({"x_1": source} if x_1 else {}), split_there
    if _is_database(root):
        return {"x_0": root}, False
    databases = sorted(path for path in root.iterdir() if _is_database(path) and path.suffix in (".lmdb", ".mdb"))
    for name in split_names(split) if layout == "i2sb" else ():
        fits = [path for path in databases if path.stem == name or path.stem.startswith(f"{name}_")]
        if len(fits) > 1:
            raise UserError(f"{root}: {fits[0].name} and {fits[1].name} both fit '{split}'; give one of them as root")
        if fits:
            return {"x_0": fits[0]}, True
    shown = ", ".join(path.name for path in databases)
    raise UserError(f"{root}: no LMDB database for the split '{split}'; there is {shown or 'none'}")


def _by_end(database: Database) -> dict[str, str]:
    """Keys by their last two parts, CLASS/NAME; the parts before are folders of the machine that built the database."""
    keys: dict[str, str] = {}
    for key in database.all_keys():
        end = "/".join(key.replace("\\", "/").split("/")[-2:])
        if end in keys:
            raise UserError(f"{database.path}: '{key}' and '{keys[end]}' end alike; these images cannot be told apart")
        keys[end] = key
    return keys


def _listed(databases: dict[str, Database]) -> dict[str, str]:
    """Keys in meta_info.txt, or all keys without that file; they must be equal on both sides."""
    sides = {}
    for part, database in databases.items():
        notes = database.path / "meta_info.txt"
        if notes.is_file():
            names = [line.partition(" (")[0].strip() for line in read_lines(notes) if line.strip()]
            sides[part] = {name.rpartition(".")[0] or name for name in names}
        else:
            sides[part] = set(database.all_keys())
    for part, keys in sides.items():
        for other, others in sides.items():
            alone = sorted(keys - others)
            if alone:
                raise UserError(
                    f"{databases[part].path}: {len(alone)} of {plural(len(keys), 'key is', 'keys are')} not in "
                    f"{databases[other].path}, '{alone[0]}' the first"
                )
    return {key: key for key in sides["x_0"]}
