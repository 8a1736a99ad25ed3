"""Certificates of smoothed networks in a run: its rows, its tables, and what is refused."""

from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import norm
from torch import nn

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import SmoothedRow
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.smoothed import RADII, make_smoothed, make_smoothed_images
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import RequestError
from tests.bench.own_request import SHAPE, own_request
from tests.bench.tiny_zoo import carry_out

SIGMAS, DRAWS, COUNT = ("0.1", "1/2"), 60, 5
CERTIFICATES = ("smoothing", "sparsified_maps")


def request_for(**flags: Any) -> Request:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(COUNT, *SHAPE, generator=generator)
    network = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 3))
    network[1].weight.data = 3 * torch.randn(3, images[0].numel(), generator=generator)
    network[1].bias.data = -network[1].weight.data.sum(dim=1) / 2
    labels = network(images).argmax(dim=1)
    labels[-1] = (labels[-1] + 1) % 3
    asked = {"threat": ("l2:0.01", "linf:0.02"), "steps": (1,), "certify": CERTIFICATES, "certify_sigma": SIGMAS}
    return own_request({"own": network}, images, labels, 3, **asked, certify_draws=DRAWS, **flags)


@pytest.fixture(scope="module")
def rows() -> list[SmoothedRow]:
    with Store() as store:
        carry_out(request_for(), store)
        return store.select(SmoothedRow, model="own")


def test_rows_depend_neither_on_the_batch_size_nor_on_interruptions(rows: list[SmoothedRow]) -> None:
    assert {(row.certificate, row.sigma, row.image) for row in rows} == {
        (name, sigma, image) for name in CERTIFICATES for sigma in (0.1, 0.5) for image in range(COUNT)
    }
    request = request_for(batch_size=2)
    with Store() as store:
        for stop in (6, 8, None):
            for _ in islice(execute(request, store), stop):
                pass
        assert store.select(SmoothedRow, model="own") == rows


def test_tables_have_the_radii_of_the_run_and_those_of_papers_and_name_the_smoothed_network() -> None:
    request = request_for()
    with Store() as store:
        carry_out(request, store)
        table, images = make_smoothed(store, request.identity), make_smoothed_images(store, request.identity)
    assert len(table) == len(CERTIFICATES) * len(SIGMAS) * (2 + len(RADII))
    assert all("smoothed" in name for name in map(str, table) if "correct" in name or "certified" in name)
    assert all("smoothed" in said for said in table["certifies"])
    of_class, radii = of(table, "smoothing"), of(images, "smoothing")
    within = {row["eps"]: row["radius_l2"] for row in of_class}
    assert within["0.01"] == 0.01
    # An l2 ball holds the cube around the image.
    assert within["0.02"] == pytest.approx(0.02 * 60**0.5)
    assert list(within.values()) == sorted(within.values())
    assert len({row["smoothed_prediction"] for row in radii}) > 1
    # The last image is misclassified whatever its radius.
    known = [row["smoothed_radius"] for row in radii if row["image"] < COUNT - 1]
    shares = {row["eps"]: row["smoothed_certified"] for row in of_class}
    for eps in RADII:
        assert shares[eps] == sum(radius >= float(eps) for radius in known) / COUNT
    assert 0 < shares["0.1"] <= of_class[0]["smoothed_correct"] < 1
    # Clopper and Pearson's bound where every draw is for the class.
    largest = 0.1 * norm.ppf(of_class[0]["alpha"] ** (1 / of_class[0]["draws"]))
    assert [row["certifiable"] for row in of_class] == [row["radius_l2"] <= largest for row in of_class]
    assert {row["certifiable"] for row in of_class} == {True, False}
    of_maps, parts = of(table, "sparsified_maps"), of(images, "sparsified_maps")
    at_once = {row["eps"]: row["smoothed_certified"] for row in of_maps}["0"]
    assert at_once == pytest.approx(sum(row["smoothed_radius"] >= 0 for row in parts) / len(parts))
    assert at_once > 0
    assert all(pd.isna(row["smoothed_correct"]) for row in of_maps)


def of(table: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """Rows of a certificate at the smaller sigma; what is not certified compares as smaller than any radius."""
    rows: list[dict[str, Any]] = table.astype(object).to_dict("records")  # type: ignore[assignment]
    return [row for row in rows if (row["certificate"], row["sigma"]) == (name, 0.1)]


def test_a_model_that_is_not_certified_yet_has_no_row(tmp_path: Path) -> None:
    request = request_for()
    with Store() as store:
        for _ in islice(execute(request, store), 5):
            pass
        assert isinstance(table := make_smoothed(store, request.identity), pd.DataFrame)
        assert not len(table)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"certify": "smoothin"}, "did you mean 'smoothing'"),
        ({"certify_sigma": "0.5"}, "certify_sigma says how is certified: give certify"),
        ({"certify": "smoothing", "certify_sigma": "0"}, "certify_sigma 0 must be positive"),
        ({"certify": "smoothing", "certify_draws": 9}, "certify_draws 9 cannot certify anything .* at least 10"),
        ({"certify": "smoothing", "space": "encoded"}, "noise to images, and space encoded has none"),
    ],
)
def test_what_certifies_nothing_is_refused_with_a_remedy(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make_config(flags)
