"""Maps over the pictures that they explain, with the outline of where their evidence should be."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from robustbench_bcos.localisation.examples import Example, Pixels
from robustbench_bcos.reports.panels import in_bytes, signed_colours
from robustbench_bcos.reports.style import styled

ACROSS = 6
"""Targets side by side, at most."""

TILE = 1.15
"""Inches of a tile's height, without the text above it."""

STRONG = 0.995
"""Quantile of a map's sizes from which on colours are opaque, as in pictures of weights."""

DIMMED = 0.35
"""Of the picture's grey, where it lies behind a map."""

Flags = npt.NDArray[np.bool_]


def located_panel(examples: Sequence[Example], names: Sequence[str], title: str) -> Figure:
    """Pictures in the first row, their maps below, a row for each method and condition.

    A map's colour is its sign and its strength its size, relative to the map's own; the picture lies behind it in
    grey. The line encloses the object, or the cell; void is hatched.

    Args:
        examples: targets, one a column.
        names: of the classes, where they are known.
        title: above everything.
    """
    shown = list(examples)[:ACROSS]
    methods = list(dict.fromkeys(method for method, _, _ in shown[0].maps))
    keys = sorted(shown[0].maps, key=lambda key: methods.index(key[0]))
    height, width, _ = shown[0].picture.shape
    tile = TILE * min(2.0, width / height), TILE
    with styled():
        size = (len(shown) * (tile[0] + 0.12) + 1.5, (len(keys) + 1) * (tile[1] + 0.3) + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        grid = figure.subplots(len(keys) + 1, len(shown), squeeze=False)
        for column, example in enumerate(shown):
            label = names[example.label] if example.label < len(names) else str(example.label)
            _draw(grid[0][column], example, example.picture, label[:20])
            for row, key in enumerate(keys, start=1):
                score = example.scores[key]
                text = "empty" if np.isnan(score) else f"{100 * score:.0f} %"
                _draw(grid[row][column], example, over_grey(example.maps[key], example.picture), text)
        for row, key in enumerate(keys, start=1):
            grid[row][0].set_ylabel("\n".join(filter(None, key)), fontsize=6.5, rotation=0, ha="right", va="center")
    return figure


def over_grey(values: Pixels, picture: Pixels) -> Pixels:
    """A signed map as colours, as opaque as it is large, over a dimmed picture of the same or another size."""
    grey = _to(picture.mean(axis=2), values.shape)[..., None]
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    size = np.abs(finite)
    # A few pixels may be so large that the others would not be seen.
    relative = np.clip(finite / (np.quantile(size, STRONG) or size.max() or 1.0), -1, 1)
    opacity = np.abs(relative)[..., None]
    behind = 0.5 + DIMMED * (grey - 0.5)
    return np.asarray(opacity * signed_colours(relative) + (1 - opacity) * behind, dtype=np.float32)


def _draw(axes: Axes, example: Example, pixels: Pixels, text: str) -> None:
    height, width = example.region.shape
    extent = (0, width, height, 0)
    axes.imshow(in_bytes(pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)), extent=extent)
    if not example.valid.all():
        axes.contourf(
            np.arange(width) + 0.5,
            np.arange(height) + 0.5,
            (~example.valid).astype(float),
            levels=[0.5, 1.5],
            colors="none",
            hatches=["////"],
        )
    segments = list(outline(example.region))
    axes.add_collection(LineCollection(segments, colors="black", linewidths=1.6))
    axes.add_collection(LineCollection(segments, colors="#D55E00", linewidths=0.8))
    axes.set_title(text, fontsize=6.5, pad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def outline(region: Flags) -> chain[list[tuple[int, int]]]:
    """Edges of pixels between a region and what is not in it, the picture's border included, as (x, y)."""
    inside = np.pad(region, 1)
    below = zip(*np.nonzero(inside[1:] != inside[:-1]), strict=True)
    beside = zip(*np.nonzero(inside[:, 1:] != inside[:, :-1]), strict=True)
    horizontal = ([(int(x) - 1, int(y)), (int(x), int(y))] for y, x in below)
    vertical = ([(int(x), int(y) - 1), (int(x), int(y))] for y, x in beside)
    return chain(horizontal, vertical)


def _to(values: Pixels, shape: tuple[int, ...]) -> Pixels:
    """The nearest pixels of another size."""
    rows, columns = (np.arange(wanted) * there // wanted for wanted, there in zip(shape, values.shape, strict=True))
    return np.asarray(values[rows][:, columns])
