"""Maps over pictures: where the outline runs, and what shows through."""

import numpy as np

from robustbench_bcos.localisation.examples import Example
from robustbench_bcos.reports.located import located_panel, outline, over_grey
from robustbench_bcos.reports.panels import signed_colours


def test_the_outline_runs_between_a_region_and_all_else_the_border_included() -> None:
    region = np.zeros((3, 4), dtype=bool)
    region[0, 1] = True
    edges = {tuple(edge) for edge in outline(region)}
    assert edges == {((1, 0), (2, 0)), ((1, 1), (2, 1)), ((1, 0), (1, 1)), ((2, 0), (2, 1))}


def test_the_largest_contribution_hides_the_picture_and_none_shows_it_dimmed() -> None:
    values = np.array([[2.0, -1.0, 0.0]], dtype=np.float32)
    picture = np.ones((1, 3, 3), dtype=np.float32)
    pixels = over_grey(values, picture)
    np.testing.assert_allclose(pixels[0, 0], signed_colours(np.ones(1, dtype=np.float32))[0], rtol=1e-6)
    assert len(set(pixels[0, 2].tolist())) == 1
    assert pixels[0, 1, 2] > pixels[0, 0, 2], "negative is bluer than positive"
    assert np.isfinite(over_grey(values * np.nan, picture)).all()


def test_a_panel_has_a_row_for_the_pictures_and_one_for_each_map() -> None:
    keys = [("auto", "clean", ""), ("gradcam", "clean", ""), ("auto", "attack", "l2 0.5")]
    example = Example(
        picture=np.full((4, 6, 3), 0.5, dtype=np.float32),
        region=np.eye(4, 6, dtype=bool),
        valid=~np.eye(4, 6, k=1, dtype=bool),
        label=1,
        maps={key: np.ones((4, 6), dtype=np.float32) for key in keys},
        scores=dict.fromkeys(keys, 0.25) | {keys[1]: float("nan")},
    )
    figure = located_panel([example, example], ("cat", "dog"), "title")
    heads = [axes.get_title(loc="left") for axes in figure.axes]
    assert heads == ["dog", "dog", "25 %", "25 %", "25 %", "25 %", "empty", "empty"]
    assert [axes.get_ylabel().split("\n")[:2] for axes in figure.axes[2::2]] == [
        ["auto", "clean"],
        ["auto", "attack"],
        ["gradcam", "clean"],
    ]
