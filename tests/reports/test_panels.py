"""Panels: what is drawn is what was kept, and the scale beside it is the one it was drawn by."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text

from robustbench_bcos.bench.pictures import Array, Picture
from robustbench_bcos.reports.panels import BACKGROUND, GAP, SHARP, attack_panel, noise_panel, telling
from robustbench_bcos.reports.style import SIGNED, lines, styled
from tests.reports.pictured import HEIGHT, NAMES, WIDTH, picture

PICTURES = (picture(3), picture(14, label=1, before=1, after=1), picture(15, label=2, before=3, after=0, change=0.25))
NINE = (
    "input",
    "attacked",
    "difference",
    "explanation, clean",
    "explanation, attacked",
    "explanation, difference",
    "contributions, clean",
    "contributions, attacked",
    "contributions, difference",
)
THREE = ("input", "explanation", "contributions")

TITLE = "digits-bcos-adv-l2 · pgd linf 8/255, 1000 steps · input x gradient"
TITLE += ", encoded space: the first three channels are shown"


def rows_of(figure: Figure) -> list[AxesImage]:
    """The rows of tiles, from the top."""
    (axes,) = figure.axes
    return sorted((image for image in axes.images if image.get_array().shape[1] > 1), key=top_of)  # type: ignore[union-attr]


def bars_of(figure: Figure) -> list[AxesImage]:
    """The colour bars, from the top."""
    (axes,) = figure.axes
    return sorted((image for image in axes.images if image.get_array().shape[1] == 1), key=top_of)  # type: ignore[union-attr]


def top_of(image: AxesImage) -> float:
    """Inches from the top of the figure."""
    return float(min(image.get_extent()[2:]))


def beside(bar: AxesImage) -> list[str]:
    """What is written beside a colour bar, from its upper end to its lower one, and then its label."""
    figure = bar.get_figure()
    assert isinstance(figure, Figure)
    _, right, low, high = bar.get_extent()
    width, height = figure.get_size_inches()
    near = [text for text in figure.texts if text.get_position()[0] * width > right]
    near = [text for text in near if high - 0.01 <= (1 - text.get_position()[1]) * height <= low + 0.01]
    ordered = sorted(near, key=lambda text: (text.get_rotation(), -text.get_position()[1]))
    return [text.get_text().replace("\n", " ") for text in ordered]


def tiles(row: AxesImage, count: int) -> list[npt.NDArray[np.float64]]:
    """The tiles of a row at the size of the images, and nothing but repeated pixels between."""
    mosaic = np.asarray(row.get_array()).astype(np.float64) / 255
    factor = -(-SHARP // WIDTH)
    period = WIDTH * factor + round(WIDTH * factor * GAP)
    assert mosaic.shape == (HEIGHT * factor, count * period, 3)
    enlarged = [mosaic[:, place * period :][:, : WIDTH * factor] for place in range(count)]
    found = [tile[factor // 2 :: factor, factor // 2 :: factor] for tile in enlarged]
    for tile, small in zip(enlarged, found, strict=True):
        np.testing.assert_array_equal(tile, small.repeat(factor, axis=0).repeat(factor, axis=1))
    return found


def close(found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> None:
    # Tiles have a byte for each channel.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.5001 / 255)


def signed(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Colours of numbers from -1 to 1."""
    found: npt.NDArray[np.float64] = mpl.colormaps[SIGNED](Normalize(-1, 1)(values))[..., :3]
    return found


def colours(pixels: Array) -> npt.NDArray[np.float64]:
    return np.stack([channel.astype(np.float64) for channel in pixels], axis=-1)


def on_grey(explanation: Array) -> npt.NDArray[np.float64]:
    wide = explanation.astype(np.float64)
    alpha = wide[..., 3, None]
    return alpha * wide[..., :3] + (1 - alpha) * BACKGROUND


def delta(one: Picture) -> npt.NDArray[np.float64]:
    assert one.attacked is not None
    return colours(one.attacked.pixels) - colours(one.clean.pixels)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def rendered(figure: Figure) -> bytes:
    file = BytesIO()
    with styled():
        figure.savefig(file, format="png", dpi=40)
    return file.getvalue()


@pytest.fixture(scope="module")
def panel() -> Figure:
    return attack_panel(PICTURES, NAMES, "net")


# What is drawn


@pytest.mark.parametrize(("after", "expected"), [(None, THREE), (1, NINE)])
def test_an_attacked_image_has_nine_rows_and_another_three(after: int | None, expected: tuple[str, ...]) -> None:
    figure = attack_panel([picture(3, after=after), picture(4, after=after)], NAMES, "net")
    assert len(rows_of(figure)) == len(expected)
    shown = [text.replace("\n", " ") for text in texts(figure)]
    assert [text for text in shown if text in NINE + THREE] == list(expected)


def test_rows_of_an_image_that_was_not_attacked_are_of_the_image_alone() -> None:
    alone = picture(3, after=None)
    pixels, explanation, contributions = rows_of(attack_panel([alone], NAMES, "net"))
    close(tiles(pixels, 1)[0], colours(alone.clean.pixels))
    close(tiles(explanation, 1)[0], on_grey(alone.clean.explanation))
    close(tiles(contributions, 1)[0], signed(alone.clean.contributions / np.abs(alone.clean.contributions).max()))


def test_pixels_are_shown_as_they_are(panel: Figure) -> None:
    for row, moment in zip(rows_of(panel), ("clean", "attacked"), strict=False):
        for tile, one in zip(tiles(row, 3), PICTURES, strict=True):
            close(tile, colours(getattr(one, moment).pixels))


def test_changes_of_pixels_are_drawn_on_grey_by_the_one_scale_of_their_colour_bar(panel: Figure) -> None:
    largest = max(np.abs(delta(one)).max() for one in PICTURES)
    assert largest == pytest.approx(0.25, rel=1e-5)
    for tile, one in zip(tiles(rows_of(panel)[2], 3), PICTURES, strict=True):
        close(tile, 0.5 + delta(one) / (2 * largest))
    bar = bars_of(panel)[0]
    assert beside(bar)[:3] == ["0.25", "0", "-0.25"]
    shown = np.asarray(bar.get_array())[:, 0].astype(float)
    np.testing.assert_allclose(shown, np.linspace(255, 0, 256)[:, None].repeat(3, axis=1), atol=1)


def test_explanations_are_drawn_on_grey_and_their_change_is_not_stretched(panel: Figure) -> None:
    rows = [tiles(row, 3) for row in rows_of(panel)]
    for clean, attacked, difference, one in zip(*rows[3:6], PICTURES, strict=True):
        assert one.attacked is not None
        before, after = on_grey(one.clean.explanation), on_grey(one.attacked.explanation)
        close(clean, before)
        close(attacked, after)
        close(difference, 0.5 + (after - before) / 2)


def test_contributions_are_in_units_of_the_largest_of_the_clean_map_of_the_same_image(panel: Figure) -> None:
    rows = rows_of(panel)[6:]
    for clean, attacked, difference, one in zip(*(tiles(row, 3) for row in rows), PICTURES, strict=True):
        assert one.attacked is not None
        unit = np.abs(one.clean.contributions.astype(np.float64)).max()
        before, after = (view.contributions.astype(np.float64) / unit for view in (one.clean, one.attacked))
        assert np.abs(after - before).max() > 1
        close(clean, signed(before))
        close(attacked, signed(after))
        close(difference, signed(after - before))


def test_what_is_drawn_of_an_image_does_not_depend_on_its_neighbours(panel: Figure) -> None:
    loud = picture(92, change=0.3)
    loud = replace(loud, clean=replace(loud.clean, contributions=1000 * loud.clean.contributions))
    other = attack_panel([*PICTURES[:2], loud], NAMES, "net")
    for name, before, after in zip(NINE, rows_of(panel), rows_of(other), strict=True):
        for place in range(2):
            same = np.array_equal(tiles(before, 3)[place], tiles(after, 3)[place])
            # Changes of pixels share a scale, which the colour bar tells.
            assert same is (name != "difference"), (name, place)


def test_colour_bars_are_symmetric_and_there_is_one_for_each_signed_quantity(panel: Figure) -> None:
    bars = bars_of(panel)
    assert [beside(bar)[3] for bar in bars] == [
        "change of each channel",
        "change of each channel",
        "contribution (clean map's largest = 1)",
    ]
    assert [beside(bar)[:3] for bar in bars] == [["0.25", "0", "-0.25"], ["1", "0", "-1"], ["1", "0", "-1"]]
    rows = rows_of(panel)
    for bar, row in zip(bars, (rows[2], rows[5], rows[6]), strict=True):
        assert 0 <= top_of(bar) - top_of(row) < 0.1
        assert bar.get_extent()[0] > row.get_extent()[1]


def test_colour_bars_do_not_touch(panel: Figure) -> None:
    for above, below in pairwise(bars_of(panel)):
        assert max(above.get_extent()[2:]) < top_of(below)


def test_a_colour_bar_says_where_maps_are_cut_off(panel: Figure) -> None:
    (bar,) = bars_of(attack_panel([picture(3, after=None)], NAMES, "net"))
    assert beside(bar) == ["1", "0", "-1", "contribution (largest = 1)"]
    ends = np.asarray(bar.get_array())[[0, -1], 0] / 255
    close(ends, signed(np.array([1.0, -1.0])))
    # Two tips for each scale that cuts off; that of pixels ends at the largest change.
    (axes,) = panel.axes
    assert len(axes.patches) == 4
    # A white one would not be seen on white.
    assert all(tip.get_edgecolor() == (0, 0, 0, 1) and tip.get_linewidth() > 0 for tip in axes.patches)


def test_columns_say_which_image_it_is_and_what_became_of_it(panel: Figure) -> None:
    columns = [text for text in texts(panel) if text.startswith("image ")]
    assert columns == [
        "image 3\nclass cat\nbroken",
        "image 14\nclass ship\nrobust",
        "image 15\nclass frog\nwrong before",
    ]


def test_captions_say_what_is_predicted_and_how_confidently(panel: Figure) -> None:
    captions = [text for text in texts(panel) if "%" in text]
    assert captions[:3] == ["cat (75 %)", "ship (75 %)", "deer (75 %)"]
    assert captions[3:] == ["ship (50 %)", "ship (50 %)", "cat (50 %)"]


def test_the_title_stands_above_everything(panel: Figure) -> None:
    (title,) = (text for text in panel.texts if text.get_text() == "net")
    assert all(title.get_position()[1] > text.get_position()[1] for text in panel.texts if text is not title)


def test_an_image_of_no_known_class_has_no_class_in_its_caption() -> None:
    figure = attack_panel([picture(3, label=None, after=None)], NAMES, "net")
    assert "image 3" in texts(figure)


def test_a_model_that_predicts_nothing_is_said_to() -> None:
    one = picture(3, before=0, after=-1)
    assert any(text.startswith("nothing") for text in texts(attack_panel([one], NAMES, "net")))


# What may be missing or broken


def with_maps(one: Picture, *, clean: float | None = None, attacked: float | None = None) -> Picture:
    """A picture some of whose maps have the same number everywhere."""
    assert one.attacked is not None

    def filled(value: float) -> Array:
        return np.full((HEIGHT, WIDTH), value, dtype=np.float32)

    return replace(
        one,
        clean=one.clean if clean is None else replace(one.clean, contributions=filled(clean)),
        attacked=one.attacked if attacked is None else replace(one.attacked, contributions=filled(attacked)),
    )


def test_maps_that_are_zero_stay_zero() -> None:
    figure = attack_panel([with_maps(picture(3), clean=0, attacked=0), picture(4)], NAMES, "net")
    for row in rows_of(figure)[6:]:
        close(tiles(row, 2)[0], signed(np.zeros((HEIGHT, WIDTH))))


def test_an_attack_that_changes_nothing_is_drawn_as_grey() -> None:
    still = picture(3)
    still = replace(still, attacked=still.clean)
    figure = attack_panel([still], NAMES, "net")
    rows = rows_of(figure)
    for row in (rows[2], rows[5]):
        close(tiles(row, 1)[0], np.full((HEIGHT, WIDTH, 3), 0.5))
    close(tiles(rows[8], 1)[0], signed(np.zeros((HEIGHT, WIDTH))))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("moment", ["clean", "attacked"])
def test_maps_that_are_no_numbers_leave_the_others_alone(broken: float, moment: str) -> None:
    figure = attack_panel([with_maps(picture(3), **{moment: broken}), picture(4)], NAMES, "net")
    alone = attack_panel([picture(3), picture(4)], NAMES, "net")
    for row, expected in zip(rows_of(figure), rows_of(alone), strict=True):
        np.testing.assert_array_equal(tiles(row, 2)[1], tiles(expected, 2)[1])


# Several models


def test_changes_of_several_models_share_one_scale_and_the_images() -> None:
    strong = [picture(3), picture(14, change=0.2)]
    weak = [replace(one, attacked=replace(one.clean, pixels=one.clean.pixels + np.float32(0.05))) for one in strong]
    figure = noise_panel({"strong": strong, "weak": weak}, NAMES, "changes")
    above, first, second = rows_of(figure)
    largest = np.abs(delta(strong[1])).max()
    for place in range(2):
        close(tiles(above, 2)[place], colours(strong[place].clean.pixels))
        close(tiles(first, 2)[place], 0.5 + delta(strong[place]) / (2 * largest))
        close(tiles(second, 2)[place], np.full((HEIGHT, WIDTH, 3), 0.5 + 0.05 / (2 * largest)))
    (bar,) = bars_of(figure)
    assert beside(bar)[0] == f"{largest:.2g}"
    shown = texts(figure)
    assert [text for text in shown if text in ("input", "strong", "weak")] == ["input", "strong", "weak"]
    assert [text for text in shown if text.startswith("image")] == ["image 3\nclass cat", "image 14\nclass cat"]
    assert [text for text in shown if "%" in text] == ["ship (50 %)"] * 2 + ["cat (75 %)"] * 2


# Names


HOSTILE = ("$x_1$", "$", "_a_", "\\frac{1}{0}", "<b>&amp;</b>", "{}%s", "größer", "ÅÄÖ", " ", "", "w" * 300)


@pytest.mark.parametrize(
    "draw", [attack_panel, lambda p, n, t: noise_panel({t: p, "b": p}, n, t)], ids=["attack", "noise"]
)
def test_names_are_text_whatever_is_in_them(draw: Callable[[Sequence[Picture], Sequence[str], str], Figure]) -> None:
    pictures = (
        [picture(i, label=i, before=i, after=i) for i in range(6)],
        [picture(i, label=i, before=i, after=i) for i in range(5, 11)],
    )
    for part in pictures:
        figure = draw(part, HOSTILE, "$\\alpha_$")
        assert rendered(figure)
        shown = [one.clean.prediction for one in part if len(HOSTILE[one.clean.prediction]) <= 11]
        for place in shown:
            assert f"{HOSTILE[place]} (50 %)" in texts(figure)


def test_names_in_scripts_that_the_font_lacks_are_drawn_without_a_warning() -> None:
    assert rendered(attack_panel([picture(3)], ("猫", "🚢\t", "frog", "deer"), "模型"))


def test_a_long_name_is_cut_and_says_so() -> None:
    names = ("a name of twelve and more letters", "exactly eleven"[:11], "", "")
    shown = " ".join(texts(attack_panel([picture(3)], names, "net")))
    assert "class a name of t…" in shown
    assert "a name of … (75 %)" in shown
    assert "exactly ele (50 %)" in shown


def extents(figure: Figure, found: Sequence[Text]) -> npt.NDArray[np.float64]:
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    return np.array([text.get_window_extent(renderer).extents for text in found])


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("after", [None, 1], ids=["three rows", "nine rows"])
def test_all_text_lies_inside_the_figure(count: int, after: int | None) -> None:
    names = ("American black bear", "killer whale", "convertible", "espresso maker")
    figure = attack_panel([picture(1000 + image, after=after) for image in range(count)], names, TITLE)
    left, bottom, right, top = extents(figure, figure.texts).T
    assert left.min() >= 0
    assert bottom.min() >= 0
    assert right.max() <= figure.bbox.width
    assert top.max() <= figure.bbox.height


def test_names_of_models_lie_inside_the_figure() -> None:
    pictures = [picture(3), picture(4)]
    figure = noise_panel({"mypackage.networks:robust_densenet121_wide": pictures, "other": pictures}, NAMES, "changes")
    assert extents(figure, figure.texts)[:, 0].min() >= 0


SURE = ("German shepherd", "Komodo dragon", "Bernese mountain dog", "chambered nautilus")
"""ImageNet's widest, of which a model is sure."""


@pytest.mark.parametrize(
    ("names", "confidence"),
    [(("American black bear", "killer whale", "convertible", "espresso maker"), 0.75), (SURE, 1.0)],
    ids=["long", "wide"],
)
def test_captions_of_neighbours_do_not_touch(names: Sequence[str], confidence: float) -> None:
    pictures = [picture(1000 + image, label=image % 4, before=image % 4) for image in range(6)]
    pictures = [replace(one, clean=replace(one.clean, confidence=confidence)) for one in pictures]
    figure = attack_panel(pictures, names, TITLE)
    boxes = extents(figure, [text for text in figure.texts if text.get_horizontalalignment() == "center"])
    for place, (left, bottom, right, top) in enumerate(boxes):
        for other in boxes[place + 1 :]:
            apart = right <= other[0] or other[2] <= left or top <= other[1] or other[3] <= bottom
            assert apart, (place, boxes[place], other)


# Colours


# Linear RGB as it is seen without one kind of cone, from Machado, Oliveira and Fernandes (2009), IEEE TVCG 15(6),
# severity 1.0.
SEEN_BY = {
    "everyone": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear(encoded: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """SRGB without its transfer function (IEC 61966-2-1)."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("eyes", list(SEEN_BY))
def test_signed_colours_grow_lighter_all_the_way(eyes: str) -> None:
    colour = linear(mpl.colormaps[SIGNED](np.linspace(0, 1, 256))[:, :3])
    luminance = np.clip(colour @ SEEN_BY[eyes].T, 0, 1) @ np.array([0.2126, 0.7152, 0.0722])
    lightness = 116 * np.cbrt(luminance) - 16
    # A table of 256 colours in steps of 1/255 is not exactly smooth: no step back may be seen (about 1 in L*).
    assert (lightness[8:] > lightness[:-8]).all()
    negative, zero, positive = lightness[[0, 128, 255]]
    assert min(zero - negative, positive - zero) > 30


def test_lines_differ_without_colour_too() -> None:
    names = [f"model {number}" for number in range(24)]
    drawn = lines(names)
    assert list(drawn) == names
    assert len({(line.marker, str(line.linestyle)) for line in drawn.values()}) == 24
    assert len({tuple(map(str, line)) for line in lines([str(number) for number in range(100)]).values()}) == 100


@pytest.mark.parametrize("change", [1e-6, 8 / 255, 0.3])
def test_the_largest_change_is_black_or_white_however_small_it_is(change: float) -> None:
    tile = tiles(rows_of(attack_panel([picture(3, change=change)], NAMES, "net"))[2], 1)[0]
    # Pixels are float32 between 0.3 and 0.7: a change of 1e-6 is known to 6 %.
    assert np.abs(tile - 0.5).max() == pytest.approx(0.5, rel=0.06)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a photo of a dog", "a photo of a ship"], ["dog", "ship"]),
        (["a photo of a dog", "a photo of a dog barking"], ["dog", "dog barking"]),
        (["a photo of a dog", "the sky"], ["a photo of a dog", "the sky"]),
        (["a dog", "a cat"], ["a dog", "a cat"]),
        (["a photo of a dog"], ["a photo of a dog"]),
        (["", "a photo of a dog"], ["", "a photo of a dog"]),
    ],
)
def test_captions_leave_out_what_all_texts_begin_with(names: list[str], told: list[str]) -> None:
    assert list(telling(names)) == told
