"""Contact sheets: training samples after all transforms, and an image at several strengths of a degradation."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from i2i_bridge import Recipe, UserError, load_recipe
from i2i_bridge.data.source import item_of
from i2i_bridge.degradations.files import build_ops, degrade_picture, split_list
from i2i_bridge.errors import plural
from i2i_bridge.images.files import read_picture, write_picture
from i2i_bridge.images.folder import find_images
from i2i_bridge.images.montage import montage
from i2i_bridge.images.pixels import Picture, to_tensor
from i2i_bridge.storage.toml import toml_value


def strengths_sheet(
    tables: Sequence[Mapping[str, Any]], vary: str, source: Path, file: Path, *, rows: int = 6, seed: int = 0
) -> str:
    """Write a PNG with a row for each image: clean | each value of one option; return a line that names the columns.

    Args:
        tables: Degradations in order; the option belongs to the last.
        vary: key=value,value,...
        source: An image, or a folder, of which the first `rows` images are used.

    Raises:
        UserError: The degradation, option, input or output is wrong.
    """
    key, words = _parse_vary(vary)
    varied = [[*tables[:-1], {**tables[-1], key: toml_value(word.strip())}] if tables else [] for word in words]
    degradations = [build_ops(one) for one in varied]
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    files = [source] if source.is_file() else find_images(source)[:rows]
    if not files:
        raise UserError(f"{source}: no images in this folder")
    if file.resolve() in [one.resolve() for one in files]:
        raise UserError(f"{file}: the sheet would overwrite the input")
    table: list[list[Tensor]] = []
    for one in files:
        picture = read_picture(one)
        shown = [degrade_picture(degradation, picture, seed, one.name).x_1[0] for degradation in degradations]
        table.append([to_tensor(picture.pixels), *shown])
    return _write_sheet(file, table, ["clean", *(f"{key} {word}" for word in words)])


def preview_strengths(
    name: str, settings: Sequence[str], vary: str, file: Path, *, rows: int, split: Literal["train", "validation"]
) -> str:
    """Write a PNG with a row for each item of a recipe: clean | X_1 at each value of one setting.

    Args:
        name: A recipe.
        settings: As on the command line.
        vary: key=value,value,... such as degradation.quality=5,10,20
        rows: Number of rows at most.

    Returns:
        A line that names the columns.

    Raises:
        UserError: The recipe, setting or value is wrong, or the data cannot be used.
    """
    key, words = _parse_vary(vary)
    recipes = [load_recipe(name, [*settings, f"{key}={word}"]) for word in words]
    _check_apart(file, recipes[0])
    datasets = [recipe.build_dataset(split) for recipe in recipes]
    table: list[list[Tensor]] = []
    for i in range(min(rows, *map(len, datasets))):
        # Crops and random draws are keyed by the item, so only the setting differs along a row.
        items = [dataset[i] for dataset in datasets]
        table.append([items[0]["x_0"], *(item["x_1"] for item in items)])
    return _write_sheet(file, table, ["clean", *(f"{key.rpartition('.')[2]} {word}" for word in words)])


def _check_apart(file: Path, recipe: Recipe) -> None:
    """Check that the sheet does not replace an image of the dataset: OUT.png is easily taken for an input.

    Raises:
        UserError: It would.
    """
    images = _image_files(recipe) if file.exists() else ()
    if any(path.name == file.name and path.resolve() == file.resolve() for path in images):
        raise UserError(f"{file}: is an image of the dataset, which the sheet would replace; choose another name")


def _image_files(recipe: Recipe) -> Iterator[Path]:
    """The files of both splits of a dataset; none of a kind whose images are no files."""
    splits: tuple[Literal["train", "validation"], ...] = ("train", "validation")
    for split in splits:
        try:
            source = recipe.build_dataset(split).source
        except UserError:  # reported where the split is used
            continue
        for index in range(len(source)):
            paths = [value for value in item_of(source, index).values() if isinstance(value, Path)]
            if not paths:
                break
            yield from paths


def _parse_vary(text: str) -> tuple[str, list[str]]:
    key, equals, values = (part.strip() for part in text.partition("="))
    words = [word.strip() for word in split_list(values)]
    if not (key and equals and all(words)):
        raise UserError(f"--vary {text}: write key=value,value,... such as quality=5,10,20,40")
    return key, words


def contact_sheet(recipe: Recipe, file: Path, *, rows: int, split: Literal["train", "validation"]) -> str:
    """Write a PNG of items after all transforms; return a line that names the columns.

    Raises:
        UserError: The data cannot be used, or the file cannot be written.
    """
    _check_apart(file, recipe)
    dataset = recipe.build_dataset(split)
    names = ["x_0", "x_1", "mask", "condition"]
    table: list[list[Tensor]] = []
    columns: list[str] = []
    for i in range(min(rows, len(dataset))):
        item = dataset[i]
        columns = [name for name in names if name in item]
        # A mask is in {0, 1}, a picture in [-1, 1].
        table.append([item[name] * 2 - 1 if name == "mask" else item[name] for name in columns])
    return _write_sheet(file, table, columns).replace("x_0", "clean x_0")


def _write_sheet(file: Path, table: Sequence[Sequence[Tensor]], header: Sequence[str]) -> str:
    """Write rows of images as a PNG; return the names of the columns and the number of rows."""
    write_picture(file, Picture(montage(table, header)))
    return f"{' | '.join(header)}, {plural(len(table), 'row')}"
