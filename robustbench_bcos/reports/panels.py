"""Panels of images: pixels, explanations and contribution maps, clean, attacked and their difference, side by side."""

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
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

SHARP = 24
"""Pixels across a tile, at least, so that whole pixels make a gap that is right to 2 % of the tile."""

BAR_TEXT = 6.0
"""Points of letters beside a colour bar."""

TIP = 0.06
"""Inches of the pointed end of a colour bar."""

Pixels = npt.NDArray[np.uint8]
Tile = Callable[[Picture], Array]
Names = Sequence[str]


def attack_panel(pictures: Sequence[Picture], names: Names, title: str, heads: Names = ()) -> Figure:
    """Three rows for images that were not attacked, nine for those that were.

    Changes of pixels and colours are drawn on grey, 0, by a scale written beside them. Contributions are in units of
    the largest contribution to the clean image's own map, so that clean, attacked and difference share one scale.

    Args:
        pictures: images, one to a column.
        names: of the classes.
        title: above everything.
        heads: of the columns; by default ``image`` and its number.
    """
    names = telling(names)
    if all(picture.attacked is None for picture in pictures):
        with styled():
            sheet = _Sheet(pictures, title, rows=3, captions=1)
            sheet.images("input", lambda picture: _colour(picture.clean.pixels), _predictions(pictures, names, "clean"))
            sheet.images("explanation", lambda picture: on_grey(picture.clean))
            sheet.maps("contributions", lambda picture: _relative(picture, picture.clean))
            sheet.signed_bar(3, 3, "contribution\n(largest = 1)", SIGNED, 1.0)
            return sheet.finish(names, heads)
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
        return sheet.finish(names, heads)


def models_panel(
    rows: Mapping[str, Sequence[Picture]], names: Mapping[str, Names], title: str, heads: Names = ()
) -> Figure:
    """The same images as several models see them: of each the explanation and the contributions, and what it predicts.

    Where the models were attacked, what each says of its own adversarial example stands below.

    Args:
        rows: by model, pictures of the same images in the same order.
        names: of each model's classes.
        title: above everything.
        heads: of the columns.
    """
    first = next(iter(rows.values()))
    names = {model: telling(of_model) for model, of_model in names.items()}
    attacked = first[0].attacked is not None
    with styled():
        each = 4 if attacked else 2
        sheet = _Sheet(first, title, rows=1 + each * len(rows), captions=len(rows) * (2 if attacked else 1))
        sheet.images("input", lambda picture: _colour(picture.clean.pixels))
        for model, pictures in rows.items():
            # By place: one image may be there several times, with another class explained each time.
            of = dict(zip(map(id, first), pictures, strict=True))
            clean = _predictions(pictures, names[model], "clean")
            sheet.images(model, lambda picture, of=of: on_grey(of[id(picture)].clean), clean)  # type: ignore[misc]
            sheet.maps("contributions", lambda picture, of=of: _share(of[id(picture)], "clean"))  # type: ignore[misc]
            if attacked:
                after = _predictions(pictures, names[model], "attacked")
                sheet.images("attacked", lambda picture, of=of: on_grey(_after(of[id(picture)])), after)  # type: ignore[misc]
                sheet.maps("contributions", lambda picture, of=of: _share(of[id(picture)], "attacked"))  # type: ignore[misc]
        sheet.signed_bar(2, 1 + each, "contribution\n(clean map's\nlargest = 1)", SIGNED, 1.0)
        return sheet.finish(next(iter(names.values())), heads, outcomes=False)


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
    """A figure made of rows of tiles; positions are in inches from the top left.

    Everything is drawn into one pair of axes: each further one takes longer than all the tiles of a row.
    """

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
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, self.size[0]), ylim=(self.size[1], 0))
        self.axes.set_axis_off()
        self.tops: list[float] = []
        self.bottom = self.header

    def images(self, name: str, tile: Tile, captions: Sequence[str] = ()) -> None:
        """A row of tiles of colours in [0, 1]."""
        top = self.bottom
        self.tops.append(top)
        self._text(LABELS - 0.1, top + self.tile_height / 2, fill(name, NAME_WIDTH), ha="right", va="center")
        self._image(self._mosaic(tile), LABELS, top, self.across, self.tile_height)
        self.bottom = top + self.tile_height * (1 + GAP)
        for column, caption in enumerate(captions):
            x = LABELS + (column + 0.5) * TILE * (1 + GAP) - TILE * GAP / 2
            self._text(x, top + self.tile_height + 0.02, caption, ha="center", va="top")
        self.bottom += CAPTION if captions else 0

    def maps(self, name: str, tile: Tile) -> None:
        """A row of tiles of signed numbers, cut off at -1 and 1; where there is no number, nothing is drawn."""
        self.images(name, lambda picture: signed_colours(tile(picture)))

    def signed_bar(self, first: int, last: int, label: str, colours: str, scale: float) -> None:
        """A colour bar from -scale to scale beside rows first to last, counted from 1."""
        top, bottom = self.tops[first - 1], self.tops[last - 1] + self.tile_height
        # A bar next to many rows may be shorter than they are.
        bottom = min(bottom, top + 2.2)
        left, right = LABELS + self.across + 0.1, LABELS + self.across + 0.2
        colormap = colormaps[colours]
        if scale == 1:
            # Pointed, where what is larger has the colour of the end.
            top, bottom = top + TIP, bottom - TIP
            for end, tip, value in ((top, top - TIP, 1.0), (bottom, bottom + TIP, 0.0)):
                across, along = [left, (left + right) / 2, right], [end, tip, end]
                # With an edge, because one of the ends may be white.
                self.axes.fill(across, along, facecolor=colormap(value), edgecolor="black", lw=0.5)
        shades = colormap(np.linspace(1, 0, 256))[:, None, :3].astype(np.float32)
        self._image(in_bytes(shades), left, top, right - left, bottom - top)
        self.axes.plot([left, left, right, right, left], [top, bottom, bottom, top, top], color="black", lw=0.5)
        for value, y in ((scale, top), (0, (top + bottom) / 2), (-scale, bottom)):
            self.axes.plot([right, right + 0.03], [y, y], color="black", lw=0.5)
            self._text(right + 0.06, y, f"{value:.2g}", ha="left", va="center", size=BAR_TEXT)
        self._text(right + 0.33, (top + bottom) / 2, label, ha="left", va="center", size=BAR_TEXT, rotation=90)

    def finish(self, names: Names, heads: Names = (), *, outcomes: bool = True) -> Figure:
        """Name the columns."""
        for column, picture in enumerate(self.pictures):
            lines = [_short(heads[column], CAPTION_WIDTH) if heads else f"image {picture.image}"]
            lines += [] if picture.label is None else [f"class {_short(names[picture.label], CAPTION_WIDTH - 6)}"]
            lines += [_outcome(picture)] if outcomes and picture.attacked is not None else []
            x = LABELS + (column + 0.5) * TILE * (1 + GAP) - TILE * GAP / 2
            self._text(x, self.header - 0.06, "\n".join(lines), ha="center", va="bottom")
        return self.figure

    def _mosaic(self, tile: Tile) -> Pixels:
        # The difference of two infinities is NaN, and is not drawn.
        with np.errstate(invalid="ignore"):
            tiles = [in_bytes(tile(picture)) for picture in self.pictures]
        # Enlarged first, so that the gap can be narrower than a pixel of a small image; drawing takes as long as there
        # are pixels.
        factor = -(-SHARP // tiles[0].shape[1])
        enlarged = [np.repeat(np.repeat(part, factor, axis=0), factor, axis=1) for part in tiles]
        gap = np.full((enlarged[0].shape[0], round(enlarged[0].shape[1] * GAP), 3), 255, dtype=np.uint8)
        return np.concatenate([part for one in enlarged for part in (one, gap)], axis=1)

    def _image(self, pixels: Pixels, left: float, top: float, width: float, height: float) -> None:
        self.axes.imshow(pixels, aspect="auto", extent=(left, left + width, top + height, top))

    def _text(self, x: float, y: float, text: str, *, ha: str, va: str, size: float = 6.5, rotation: int = 0) -> None:
        place = (x / self.size[0], 1 - y / self.size[1])
        self.figure.text(*place, text, ha=ha, va=va, fontsize=size, rotation=rotation)


def signed_colours(values: Array) -> Array:
    """Signed numbers as colours from -1 to 1, those beyond as the ends; NaN stays NaN."""
    colours: Array = colormaps[SIGNED]((np.clip(values, -1, 1) + 1) / 2)[..., :3].astype(np.float32)
    colours[np.isnan(values)] = np.nan
    return colours


def in_bytes(colours: Array) -> Pixels:
    """Colours as a file has them; what is no colour is white."""
    pixels: Pixels = (255 * np.clip(np.nan_to_num(colours, nan=1), 0, 1)).round().astype(np.uint8)
    return pixels


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


def _share(picture: Picture, moment: Literal["clean", "attacked"]) -> Array:
    return _relative(picture, picture.clean if moment == "clean" else _after(picture))


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


def telling(names: Names) -> Names:
    """Names shortened by their common first words, where they are too long for a caption."""
    words = [name.split() for name in names]
    if len(names) < 2 or max(map(len, names)) <= CAPTION_WIDTH // 2:
        return names
    shared = 0
    while all(len(parts) > shared + 1 and parts[shared] == words[0][shared] for parts in words):
        shared += 1
    return [" ".join(parts[shared:]) for parts in words] if shared else names


def _short(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 1] + "…"
