"""How every figure looks: sizes, colours, markers, and the files it is written to.

Signed maps run from dark blue over grey to light yellow (cividis): the sign stays readable in greyscale and for
colour-blind readers. Lines differ in marker and dashes as well as in colour (Okabe and Ito, 2008).
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from robustbench_bcos.core.disk import made, write_bytes

SIGNED = "cividis"
FORMATS = ("png", "pdf")

STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.facecolor": "white",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.markersize": 4,
    "image.interpolation": "nearest",
    # Names of classes and models are text, whatever is in them.
    "text.parse_math": False,
    "pdf.fonttype": 42,
}

Dashes = str | tuple[int, tuple[int, ...]]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Dashes, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))


class Line(NamedTuple):
    """What tells one line from another."""

    color: str
    marker: str
    linestyle: Dashes


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the project's style; the user's own settings are left alone."""
    with mpl.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; what it is stands in the page.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ ")
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def lines(names: Sequence[str]) -> dict[str, Line]:
    """A line for each name; colour, marker and dashes repeat at different intervals."""
    styles = map(Line, cycle(COLOURS), cycle(MARKERS), cycle(DASHES))
    return dict(zip(names, styles, strict=False))


def write_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write PNG and PDF, each replaced as a whole, without a date in them.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    made(folder)
    files = []
    for kind in FORMATS:
        content = io.BytesIO()
        dateless = {"CreationDate": None, "ModDate": None} if kind == "pdf" else {"Software": None}
        with styled():
            figure.savefig(content, format=kind, metadata=dateless)
        files.append(write_bytes(folder / f"{name}.{kind}", content.getvalue()))
    return files
