"""How every figure looks: sizes, colours, markers, and the files it is written to.

Signed maps run from dark blue over grey to light yellow (cividis): the sign stays readable in greyscale and for
colour-blind readers. Lines differ in marker and dashes as well as in colour (Okabe and Ito, 2008).
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustbench_bcos.core.disk import made, write_bytes

SIGNED = "cividis"
COMPRESSION = 3
"""Of PNG files, of 9: further levels take half as long again to make a file a fifth smaller."""

SAVED: dict[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": COMPRESSION}},
    "pdf": {"metadata": {"CreationDate": None, "ModDate": None}},
}
"""How a file of each format is written, without a date in it."""

FORMATS = ("png", "pdf")
"""Files of a figure that somebody asks for by itself."""

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
    # Fitting each letter to the grid of pixels takes longer than drawing it, and is not seen at this resolution.
    "text.hinting": "none",
    # Names of classes and models are text, whatever is in them.
    "text.parse_math": False,
    "pdf.fonttype": 42,
}

LEGEND = 7
"""Points of a legend's letters."""

LETTER, LINE, HANDLE = 0.06, 0.17, 0.5
"""Inches: a letter of a legend, the height of its line, and the line drawn before it with all space around."""

BESIDE = 24
"""Characters in a line of a legend beside a figure."""

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


def legend_beside(figure: Figure, axes: Axes) -> None:
    """A legend of the lines to the right of everything; the figure grows where there are more than it is high."""
    names = [fill(str(line.get_label()), BESIDE) for line in axes.lines]
    _grow(figure, sum(name.count("\n") + 1 for name in names) * LINE + 2 * LINE - figure.get_figheight())
    # Matplotlib leaves out what begins with an underscore, unless the text is set afterwards.
    legend = figure.legend(axes.lines, ["?"] * len(names), loc="outside right upper", fontsize=LEGEND)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def legend_above(figure: Figure, labelled: Mapping[str, Any]) -> None:
    """A legend above everything, in as many columns as the figure is wide; the figure grows by its height."""
    width = figure.get_figwidth()
    names = [fill(name, int((width - HANDLE) / LETTER)) for name in labelled]
    longest = max((len(line) for name in names for line in name.splitlines()), default=1)
    columns = max(1, min(len(names), int(width / (longest * LETTER + HANDLE))))
    _grow(figure, sum(name.count("\n") + 1 for name in names) / columns * LINE - LINE)
    legend = figure.legend(
        list(labelled.values()), ["?"] * len(names), loc="outside upper left", ncols=columns, fontsize=LEGEND
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def _grow(figure: Figure, height: float) -> None:
    figure.set_figheight(figure.get_figheight() + max(0.0, height))


def write_figure(figure: Figure, folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure in these formats, each file replaced as a whole, without a date in it.

    A file of the figure in another format, which an earlier report has left, would show old numbers: it is written
    again, too.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    made(folder)
    there = [kind for kind in FORMATS if kind not in formats and (folder / f"{name}.{kind}").exists()]
    return [write_bytes(folder / f"{name}.{kind}", drawn(figure, kind)) for kind in (*formats, *there)]


def drawn(figure: Figure, kind: str) -> bytes:
    """What a file of a figure holds."""
    content = io.BytesIO()
    with styled():
        figure.savefig(content, format=kind, **SAVED[kind])
    return content.getvalue()
