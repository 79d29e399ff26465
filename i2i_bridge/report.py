"""The report of a run: the page of a comparison, of this run alone."""

from pathlib import Path

from i2i_bridge.comparing import open_entries
from i2i_bridge.data.loading import PairDataset
from i2i_bridge.page import write_page
from i2i_bridge.run import Run


def write_report(run: Run, dataset: PairDataset, protocol: str = "held-out") -> Path:
    """Write `report/index.html` and its pictures from an evaluated run; see `write_page`.

    Args:
        run: The trained run; `evaluate` must have been called.
        dataset: Its validation pairs, for the walks and samples.
        protocol: The evaluation to report.

    Returns:
        The page.

    Raises:
        UserError: The run is not evaluated yet under that protocol.
    """
    return write_page(open_entries([run.folder], protocol), run.folder / "report", lambda entry: (run, dataset))
