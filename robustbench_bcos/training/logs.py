"""Logs of trainings, ``NAME.log.csv``: a row for each epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from robustbench_bcos.core.disk import no_pipe, write_text
from robustbench_bcos.core.errors import RequestError, reason_of

if TYPE_CHECKING:
    from robustbench_bcos.training.trainer import Epoch

COLUMNS = ("number", "loss", "accuracy")
"""What every log has."""


def read_log(file: Path) -> pd.DataFrame:
    """All epochs, as text, which no reading and writing can change.

    Raises:
        RequestError: it cannot be read, lacks a column, or says what is no number.
    """
    try:
        rows = pd.read_csv(no_pipe(file), dtype=str)
        numbers = rows[list(COLUMNS)].astype(float)
        if not np.isfinite(numbers["number"]).all() or (numbers["number"] % 1 != 0).any():
            raise ValueError("an epoch has no number")
        return rows
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(
            f"{file} is no log of a training ({reason_of(error)}): remove it, or train its model again"
        ) from None


class Log:
    """Adds every epoch to a file; one that is trained again after an interruption replaces its first attempt.

    Raises:
        RequestError: a training is to go on, and its log is damaged.
    """

    def __init__(self, file: Path, then: "Callable[[Epoch], None]", *, goes_on: bool) -> None:
        self.file, self.then = file, then
        if goes_on and file.exists():
            # Before an epoch is trained that could not be added.
            read_log(file)

    def __call__(self, epoch: "Epoch") -> None:
        """Add one."""
        # Most trainings learn no exponents.
        rows = pd.DataFrame([epoch]).dropna(axis=1, how="all")
        if epoch.number > 1 and self.file.exists():
            before = read_log(self.file)
            rows = pd.concat([before[before["number"].astype(float) < epoch.number], rows])
        write_text(self.file, rows.to_csv(index=False))
        self.then(epoch)
