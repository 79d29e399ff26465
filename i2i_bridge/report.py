"""The report of a run: the page of a comparison, of this run alone."""

import os
from dataclasses import replace
from pathlib import Path

from i2i_bridge.comparing import open_entries
from i2i_bridge.data.loading import PairDataset
from i2i_bridge.errors import UserError
from i2i_bridge.files import refuse_links
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
    refuse_links(run.folder, ["report"])
    if not os.access(run.folder, os.W_OK):
        raise UserError(f"{run.folder}: cannot be written; elsewhere: i2i-bridge compare {run.folder} --out DIR")
    (entry,) = open_entries([run.folder], protocol)
    warnings = [*entry.evaluation.warnings, *(line for line in run.warnings if line not in entry.evaluation.warnings)]
    if entry.evaluation.step != run.step:
        warnings.append(
            f"the numbers are of step {entry.evaluation.step}, the walks and samples of step {run.step}; evaluate again"
        )
    entry = replace(entry, evaluation=replace(entry.evaluation, warnings=warnings))
    return write_page([entry], run.folder / "report", lambda entry: (run, dataset))
