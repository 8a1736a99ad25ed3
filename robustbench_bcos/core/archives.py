"""NumPy archives that may be damaged, of another form, or made to harm."""

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from robustbench_bcos.core.disk import no_pipe


def read_arrays(file: Path | bytes) -> Mapping[str, npt.NDArray[Any]]:
    """Every array of an NPZ file by its name, or of such a file's content; pickles are none.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no such archive, an array is damaged, or is larger than memory.
    """
    try:
        with np.load(io.BytesIO(file) if isinstance(file, bytes) else no_pipe(file), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (ValueError, TypeError, AttributeError, EOFError, RuntimeError, BadZipFile, zlib.error, MemoryError):
        # NumPy's own words recommend pickles; a file that holds a single array has no names.
        raise ValueError("it is damaged, or is no archive of arrays") from None
