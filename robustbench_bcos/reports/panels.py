"""Panels of images: pixels, explanations and contribution maps, clean, attacked and their difference, side by side."""

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from robustbench_bcos.bench.pictures import Array, Picture, View
from robustbench_bcos.reports.style import SIGNED, styled

TILE, LABELS, BARS, HEADER, CAPTION = 0.95, 1.35, 0.95, 0.85, 0.17
"""Inches: a tile, the margins for names of rows, for colour bars and for the title, and a line of text."""

BACKGROUND = 0.75
"""Grey behind explanations: both white and black strokes are visible on it."""

NAME_WIDTH = 21
"""Characters of a row's name that fit into its margin."""

CAPTION_WIDTH = 18
"""Characters that fit beneath a tile, even wide ones beside others like them."""

LETTER, LINE = 0.09, 0.16
"""Width of a letter and height of a line of the title, in inches."""

GAP = 0.08
"""Space between tiles, as a share of a tile."""

Tile = Callable[[Picture], Array]
Names = Sequence[str]


def attack_panel(pictures: Sequence[Picture], names: Names, title: str) -> Figure:
    """Three rows for images that were not attacked, nine for those that were.

    Changes of pixels and colours are drawn on grey, 0, by a scale written beside them. Contributions are in units of
    the largest contribution to the clean image's own map, so that clean, attacked and difference share one scale.

    Args:
        pictures: images, one to a column.
        names: of the classes.
        title: above everything.
    """
    if all(picture.attacked is None for picture in pictures):
        with styled():
            sheet = _Sheet(pictures, title, rows=3, captions=1)
            sheet.images("input", lambda picture: _colour(picture.clean.pixels), _predictions(pictures, names, "clean"))
            sheet.images("explanation", lambda picture: on_grey(picture.clean))
            sheet.maps("contributions", lambda picture: _relative(picture, picture.clean))
            sheet.signed_bar(3, 3, "contribution\n(largest = 1)", SIGNED, 1.0)
            return sheet.finish(names)
    with styled():
        sheet = _Sheet(pictures, title, rows=9, captions=2)
        sheet.images("input", lambda picture: _colour(picture.clean.pixels), _predictions(pictures, names, "clean"))
        sheet.images(
            "attacked", lambda picture: _colour(_after(picture).pixels), _predictions(pictures, names, "attacked")
        )
        scale = largest_change(pictures)
        sheet.images("difference", lambda picture: change_of_pixels(picture, scale))
        sheet.images("explanation, clean", lambda picture: on_grey(picture.clean))
        sheet.images("explanation, attacked", lambda picture: on_grey(_after(picture)))
        sheet.images(
            "explanation, difference", lambda picture: _grey(on_grey(_after(picture)) - on_grey(picture.clean), 1.0)
        )
        sheet.maps("contributions, clean", lambda picture: _relative(picture, picture.clean))
        sheet.maps("contributions, attacked", lambda picture: _relative(picture, _after(picture)))
        sheet.maps(
            "contributions, difference",
            lambda picture: _relative(picture, _after(picture)) - _relative(picture, picture.clean),
        )
        sheet.signed_bar(3, 3, "change of\neach channel", "gray", scale)
        sheet.signed_bar(6, 6, "change of\neach channel", "gray", 1.0)
        sheet.signed_bar(7, 9, "contribution\n(clean map's\nlargest = 1)", SIGNED, 1.0)
        return sheet.finish(names)


def noise_panel(rows: Mapping[str, Sequence[Picture]], names: Names, title: str) -> Figure:
    """Perturbations of the same images by each model's attack, on one scale for all.

    Args:
        rows: by model, pictures of the same images in the same order.
        names: of the classes.
        title: above everything.
    """
    everything = [picture for pictures in rows.values() for picture in pictures]
    scale = largest_change(everything)
    first = next(iter(rows.values()))
    with styled():
        sheet = _Sheet(first, title, rows=1 + len(rows), captions=len(rows))
        sheet.images("input", lambda picture: _colour(picture.clean.pixels))
        for model, pictures in rows.items():
            changes = {picture.image: change_of_pixels(picture, scale) for picture in pictures}
            sheet.images(model, lambda picture, c=changes: c[picture.image], _predictions(pictures, names, "attacked"))  # type: ignore[misc]
        sheet.signed_bar(2, 1 + len(rows), "change of\neach channel", "gray", scale)
        return sheet.finish(names, outcomes=False)


def largest_change(pictures: Sequence[Picture]) -> float:
    """The largest change of a channel of a pixel among pictures, or 1 where nothing changed."""
    changes = [float(np.abs(_after(picture).pixels - picture.clean.pixels).max()) for picture in pictures]
    return max(changes) or 1.0


def change_of_pixels(picture: Picture, scale: float) -> Array:
    """The perturbation as colours: grey is 0, and ``scale`` the brightest."""
    return _grey(_colour(_after(picture).pixels - picture.clean.pixels), scale)


class _Sheet:
    """A figure made of rows of tiles; positions are in inches from the top left."""

    def __init__(self, pictures: Sequence[Picture], title: str, *, rows: int, captions: int) -> None:
        height, width = pictures[0].clean.contributions.shape
        self.pictures = pictures
        self.tile_height = TILE * height / width
        self.across = len(pictures) * TILE * (1 + GAP)
        across = LABELS + self.across + BARS
        title = fill(title, int(across / LETTER))
        self.header = HEADER + LINE * title.count("\n")
        self.size = (
            across,
            self.header + rows * self.tile_height * (1 + GAP) + captions * CAPTION + 0.1,
        )
        self.figure = Figure(figsize=self.size)
        self.figure.text(0.12 / self.size[0], 1 - 0.12 / self.size[1], title, va="top", fontsize=9, weight="bold")
        self.tops: list[float] = []
        self.bottom = self.header

    def images(self, name: str, tile: Tile, captions: Sequence[str] = ()) -> None:
        """A row of tiles of colours in [0, 1]."""
        axes = self._row(name, captions)
        axes.imshow(self._mosaic(tile, 1.0), aspect="auto")

    def maps(self, name: str, tile: Tile) -> None:
        """A row of tiles of signed numbers, cut off at -1 and 1."""
        axes = self._row(name, ())
        axes.imshow(self._mosaic(tile, np.nan), cmap=SIGNED, vmin=-1, vmax=1, aspect="auto")

    def signed_bar(self, first: int, last: int, label: str, colours: str, scale: float) -> None:
        """A colour bar from -scale to scale beside rows first to last, counted from 1."""
        top, bottom = self.tops[first - 1], self.tops[last - 1] + self.tile_height
        # A bar next to many rows may be shorter than they are.
        height = min(bottom - top, 2.2)
        axes = self._axes(LABELS + self.across + 0.1, top, 0.1, height)
        mappable = ScalarMappable(Normalize(-scale, scale), colours)
        bar = self.figure.colorbar(
            mappable, cax=axes, ticks=[-scale, 0, scale], extend="both" if scale == 1 else "neither"
        )
        bar.set_ticklabels([f"-{scale:.2g}", "0", f"{scale:.2g}"])
        axes.tick_params(labelsize=6, length=2)
        bar.set_label(label, fontsize=6)

    def finish(self, names: Names, *, outcomes: bool = True) -> Figure:
        """Name the columns."""
        for column, picture in enumerate(self.pictures):
            lines = [f"image {picture.image}"]
            lines += [] if picture.label is None else [f"class {_short(names[picture.label], CAPTION_WIDTH - 6)}"]
            lines += [_outcome(picture)] if outcomes and picture.attacked is not None else []
            x = LABELS + (column + 0.5) * TILE * (1 + GAP) - TILE * GAP / 2
            self._text(x, self.header - 0.06, "\n".join(lines), ha="center", va="bottom")
        return self.figure

    def _row(self, name: str, captions: Sequence[str]) -> Axes:
        top = self.bottom
        self.tops.append(top)
        self._text(LABELS - 0.1, top + self.tile_height / 2, fill(name, NAME_WIDTH), ha="right", va="center")
        axes = self._axes(LABELS, top, self.across, self.tile_height)
        axes.set_axis_off()
        self.bottom = top + self.tile_height * (1 + GAP)
        for column, caption in enumerate(captions):
            x = LABELS + (column + 0.5) * TILE * (1 + GAP) - TILE * GAP / 2
            self._text(x, top + self.tile_height + 0.02, caption, ha="center", va="top")
        self.bottom += CAPTION if captions else 0
        return axes

    def _mosaic(self, tile: Tile, between: float) -> Array:
        # The difference of two infinities is NaN, and is not drawn.
        with np.errstate(invalid="ignore"):
            tiles = [tile(picture) for picture in self.pictures]
        # Enlarged first, so that the gap can be narrower than a pixel of a small image.
        factor = max(1, round(160 / tiles[0].shape[1]))
        enlarged = [np.repeat(np.repeat(part, factor, axis=0), factor, axis=1) for part in tiles]
        gap = np.full((enlarged[0].shape[0], round(enlarged[0].shape[1] * GAP), *enlarged[0].shape[2:]), between)
        return np.concatenate([part for one in enlarged for part in (one, gap)], axis=1).astype(np.float32)

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        across, down = self.size
        axes = self.figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
        axes.grid(visible=False)
        return axes

    def _text(self, x: float, y: float, text: str, *, ha: str, va: str) -> None:
        self.figure.text(x / self.size[0], 1 - y / self.size[1], text, ha=ha, va=va, fontsize=6.5)


def _after(picture: Picture) -> View:
    assert picture.attacked is not None
    return picture.attacked


def _colour(pixels: Array) -> Array:
    return np.moveaxis(pixels, 0, 2)


def on_grey(view: View) -> Array:
    """An explanation over grey."""
    colours, alpha = view.explanation[..., :3], view.explanation[..., 3:]
    blended: Array = colours * alpha + BACKGROUND * (1 - alpha)
    return blended


def _grey(change: Array, scale: float) -> Array:
    shown: Array = np.clip(0.5 + change / (2 * scale), 0, 1)
    return shown


def _relative(picture: Picture, view: View) -> Array:
    largest = float(np.abs(picture.clean.contributions).max()) or 1.0
    relative: Array = view.contributions / largest
    return relative


def _outcome(picture: Picture) -> str:
    if picture.wrong_before:
        return "wrong before"
    return "broken" if _after(picture).prediction != picture.clean.prediction else "robust"


def _predictions(pictures: Sequence[Picture], names: Names, moment: str) -> list[str]:
    views: list[View] = [getattr(picture, moment) for picture in pictures]
    return [_prediction(view, names) for view in views]


def _prediction(view: View, names: Names) -> str:
    confidence = f" ({100 * view.confidence:.0f} %)"
    return (
        _short(names[view.prediction], CAPTION_WIDTH - len(confidence)) if view.prediction >= 0 else "nothing"
    ) + confidence


def _short(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 1] + "…"
