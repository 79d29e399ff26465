"""Labels of the methods on a page: from `--label RUN=NAME`, else made distinct by the folders' names."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from i2i_bridge.errors import UserError


def parse_labels(texts: Sequence[str], folders: Sequence[Path], runs: Sequence[Path] = ()) -> dict[Path, str]:
    """Parse `--label RUN=NAME` into labels by folder, with the folder as in `folders`.

    Args:
        texts: The labels.
        folders: The folders that are compared.
        runs: The runs as the user named them, where their folders are copies: of shipped runs, of the Hub.

    Raises:
        UserError: A text has no name, its run is not among the folders, or a run has two labels.
    """
    known = [*zip(folders, folders, strict=True), *zip(runs, folders, strict=False)]
    found: dict[Path, str] = {}
    for text in texts:
        places = [i for i, letter in enumerate(text) if letter == "="]
        match = ((i, folder) for i in places for run, folder in known if Path(text[:i]).resolve() == run.resolve())
        i, folder = next(match, (-1, None))
        if folder is None:
            names = ", ".join(map(str, folders))
            raise UserError(f"--label '{text}': reads RUN=NAME, with one of the runs that are compared: {names}")
        name = text[i + 1 :].strip()
        if not name or len(name) > 100:
            raise UserError(f"--label '{text}': a name of 1 to 100 letters is needed")
        if folder in found:
            raise UserError(f"--label '{text}': {folder} has a name already, '{found[folder]}'")
        found[folder] = name
    return found


def name_entries(found: Sequence[tuple[str, Path]]) -> list[str]:
    """Label each (method label, folder): the method label, adding the folder's name or path if labels are equal."""
    methods = Counter(method for method, _ in found)
    short = [method if methods[method] == 1 else f"{method} ({folder.name})" for method, folder in found]
    counts = Counter(short)
    return [
        label if counts[label] == 1 else f"{method} ({folder})"
        for label, (method, folder) in zip(short, found, strict=True)
    ]
