"""Every image of a run as the page's script reads it."""

import io
import json
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from robustbench_bcos.reports import browser
from robustbench_bcos.reports.browser import OUTCOMES, TILES, browsable
from robustbench_bcos.reports.run_folder import RunFolder
from tests.reports.pictured import HEIGHT, NAMES, WIDTH, images_of, picture, record, run_of

PICTURES = (picture(1), picture(3, after=0))


def run(**changes: object) -> RunFolder:
    rows = [record("net", 100, steps=5), record("net", 90), record("other", 80, eps=1.5)]
    images = [
        row
        for number, (one, outcomes) in enumerate(zip(rows, ("rrbm", "rebm", "bbbb"), strict=True))
        for row in images_of(f"cell {number}", one["model"], outcomes)
    ]
    return run_of(rows, image_rows=images, pictures=dict.fromkeys(range(3), PICTURES), **changes)  # type: ignore[arg-type]


def test_each_cell_has_every_image_in_the_order_of_the_subset() -> None:
    found = browsable(run())
    assert found is not None
    assert (found["images"], found["labels"], found["classes"]) == ([0, 1, 2, 3], [0, 1, 0, 1], list(NAMES))
    assert [(cell["model"], cell["attack"]) for cell in found["cells"]] == [
        ("net", "l2 0.5 pgd, 5 steps"),
        ("net", "l2 0.5 pgd, 20 steps"),
        ("other", "l2 1.5 pgd, 20 steps"),
    ]
    second = found["cells"][1]
    assert second["before"] == [0, 1, 0, 2]
    assert second["after"] == [0, 1, 3, None]
    assert second["sizes"] == [0.1235, 0.1235, 0.1235, None]
    assert json.loads(json.dumps(found, allow_nan=False))["cells"][1]["outcomes"] == "rebm"


def test_what_became_of_images_adds_up_to_the_accuracy() -> None:
    found = browsable(run())
    assert found is not None
    for cell in found["cells"]:
        assert set(cell["outcomes"]) <= set(OUTCOMES)
    assert [cell["outcomes"].count("r") for cell in found["cells"]] == [2, 1, 0]


def test_pictures_are_those_of_the_most_steps_as_they_are() -> None:
    found = browsable(run())
    assert found is not None
    few, most, _ = found["cells"]
    assert few["pictures"] is None
    assert most["pictures"]["images"] == [1, 3]
    kind, content = most["pictures"]["sheet"].split(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(b64decode(content))) as image:
        sheet = np.asarray(image).astype(float) / 255
    assert sheet.shape == (2 * (HEIGHT + 1), len(TILES) * (WIDTH + 1), 3)
    assert most["pictures"]["aspect"] == sheet.shape[1] / (HEIGHT + 1)
    for place, one in enumerate(PICTURES):
        assert one.attacked is not None
        row = sheet[place * (HEIGHT + 1) :][:HEIGHT]
        for column, pixels in enumerate((one.clean.pixels, one.attacked.pixels)):
            tile = row[:, column * (WIDTH + 1) :][:, :WIDTH]
            np.testing.assert_allclose(tile, pixels.transpose(1, 2, 0), atol=0.51 / 255)


def test_nothing_is_to_be_looked_through_where_there_is_nothing_or_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    assert browsable(run_of([record("net", 100)])) is None
    monkeypatch.setattr(browser, "ROWS", 12)
    assert browsable(run()) is not None
    monkeypatch.setattr(browser, "ROWS", 11)
    assert browsable(run()) is None
