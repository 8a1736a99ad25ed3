"""Distances: those of a plane in a box, whatever is known before, in whatever batches, however often interrupted."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.bench.records import CURVE_COLUMNS, make_curves, make_distances, make_records
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import DistanceRow, ModelRow, Row
from robustbench_bcos.bench.stages import distances as measuring
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.bench.trial import Judged, attack_and_judge
from robustbench_bcos.certificates.certifier import Certifier
from tests.bench.by_hand import distance_row
from tests.bench.own_request import SHAPE, TwoSides, distance_to_the_plane, own_request
from tests.bench.tiny_zoo import carry_out, tiny_request
from tests.reference.activation_patterns import HiddenLayer

COUNT = 6
EVERYTHING = 1e3

every_norm = pytest.mark.parametrize("norm", NORMS)


def problem(seed: int, *, lead: float = 1.0) -> tuple[TwoSides, Tensor, Tensor]:
    """A plane and images on both sides of it, of which the last is misclassified; a longer lead is farther away."""
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.uniform(size=(COUNT, *SHAPE))).float()
    normal = random.normal(size=math.prod(SHAPE))
    network = TwoSides(normal, 0.0)
    network.offset = -float(network(images)[:, 1].mean()) - lead
    labels = network(images).argmax(dim=1)
    labels[-1] = 1 - labels[-1]
    return network, images, labels


def request_for(seed: int, norm: str, *, lead: float = 1.0, **flags: Any) -> Request:
    network, images, labels = problem(seed, lead=lead)
    asked: dict[str, Any] = {"norm": (norm,), "eps": ("0",), "steps": (5,), "distances": True, "loss": ("margin",)}
    return own_request({"plane": network}, images, labels, 2, **{**asked, **flags})


def exact(seed: int, norm: str, *, lead: float = 1.0) -> NDArray[np.float64]:
    """What there is to find, of the images that are classified correctly."""
    network, images, _ = problem(seed, lead=lead)
    return np.array([distance_to_the_plane(image.numpy(), network, norm) for image in images[:-1]])


def found(request: Request, norm: str, model: str = "plane") -> list[DistanceRow]:
    """By image."""
    with Store() as store:
        carry_out(request, store)
        return store.select(DistanceRow, model=model, norm=norm)


def highs(rows: Sequence[DistanceRow]) -> NDArray[np.float64]:
    return np.array([np.inf if row.high is None else row.high for row in rows])


# Against a closed form


@every_norm
@given(seed=st.integers(0, 10_000), lead=st.floats(-3, 3))
@settings(max_examples=3, deadline=None)
def test_distances_are_those_to_a_plane_in_the_pixel_box(norm: str, seed: int, lead: float) -> None:
    *rows, _ = found(request_for(seed, norm, lead=lead), norm)
    distances, reached = exact(seed, norm, lead=lead), highs(rows)
    # What fools lies beyond the plane: no nearer than float32 can tell. Above, the last interval is a 128th of an
    # interval that began at half the radius that first fooled.
    assert (reached >= distances * (1 - 1e-4) - 1e-6).all()
    np.testing.assert_allclose(reached, distances, rtol=1 / 50, atol=1e-3)
    for row, distance in zip(rows, reached, strict=True):
        assert 0 <= row.low <= distance
        assert distance - row.low <= distance / 50 + 2e-3


@pytest.mark.usefixtures("whole_second_search")
@every_norm
def test_distances_of_two_layers_are_those_of_all_patterns_of_activation(norm: str) -> None:
    random = np.random.default_rng(5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    for parameter in network.parameters():
        parameter.data = torch.from_numpy(random.normal(size=parameter.shape)).float()
    images = torch.from_numpy(random.uniform(size=(3, 3, 2, 2))).float()
    labels = network(images).argmax(dim=1)
    features, offset, readout, bias = (parameter.detach().double().numpy() for parameter in network.parameters())
    twin = HiddenLayer(features, offset, readout, bias)
    pixels = images.flatten(1).double().numpy()
    distances = np.array([twin.distance(*pair, norm) for pair in zip(pixels, labels.tolist(), strict=True)])
    flags: dict[str, Any] = {"norm": (norm,), "eps": ("0",), "steps": (50,), "distances": True, "loss": ("margin",)}
    rows = found(own_request({"plane": network}, images, labels, 3, **flags), norm)
    assert distances.min() > 0.01
    assert np.isfinite(distances).all()
    assert (highs(rows) >= distances * (1 - 1e-4) - 1e-6).all()
    # Steps of l1 move few pixels, and not all find the way out of the pattern that they begin in.
    assert (highs(rows) <= 1.02 * distances).mean() >= (0.5 if norm == "l1" else 1)
    for row, distance in zip(rows, distances, strict=True):
        assert row.certified is not None
        assert 0 < row.certified <= distance


@every_norm
def test_an_image_that_cannot_be_broken_has_no_high_and_is_robust_in_the_whole_box(norm: str) -> None:
    distances = exact(3, norm, lead=EVERYTHING)
    *rows, wrong = found(request_for(3, norm, lead=EVERYTHING), norm)
    assert np.isinf(distances).all()
    diameter = NORMS[norm].diameter(SHAPE)
    assert [row.high for row in rows] == [None] * (COUNT - 1)
    assert [row.low for row in rows] == pytest.approx([diameter] * (COUNT - 1), rel=1e-5)
    assert all(row.passes > 0 for row in rows)
    assert (wrong.low, wrong.high) == (0.0, 0.0)


@every_norm
def test_an_image_of_the_target_class_is_broken_nowhere_and_not_attacked(norm: str) -> None:
    *_, labels = problem(4)
    labels[-1] = 1 - labels[-1]
    rows = found(request_for(4, norm, criterion="targeted", target="1"), norm)
    target = [row.image for row in rows[:-1] if labels[row.image] == 1]
    assert 0 < len(target) < COUNT - 1
    for row, distance in zip(rows[:-1], exact(4, norm), strict=True):
        if row.image in target:
            assert (row.high, row.passes) == (None, 0)
            assert row.low == pytest.approx(NORMS[norm].diameter(SHAPE), rel=1e-5)
        else:
            assert row.high == pytest.approx(distance, rel=1 / 50)


@every_norm
def test_a_misclassified_image_is_at_distance_0_and_costs_nothing(norm: str) -> None:
    *rows, wrong = found(request_for(4, norm), norm)
    assert wrong == distance_row(COUNT - 1, 0.0, 0.0, 0, model="plane", norm=norm)
    assert all(row.passes > 0 for row in rows)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[AttackTarget, Judged]]:
    """Every search, and what came of it."""
    searches: list[tuple[AttackTarget, Judged]] = []

    def watched(attack: AbstractAttack, target: AttackTarget, **named: Any) -> Judged:
        searches.append((target, attack_and_judge(attack, target, **named)))
        return searches[-1][1]

    monkeypatch.setattr(measuring, "attack_and_judge", watched)
    return searches


@every_norm
def test_what_is_recorded_as_broken_was_judged_and_is(norm: str, tried: list[tuple[AttackTarget, Judged]]) -> None:
    *rows, _ = found(request_for(5, norm), norm)
    proposed: dict[int, list[tuple[float, bool]]] = {}
    for target, judged in tried:
        sizes = NORMS[norm].size(judged.adversarials.double() - target.images.double())
        broken = target.classifier(judged.adversarials).argmax(dim=1) != target.labels
        for image, size, success in zip(target.rng.indices, sizes.tolist(), broken.tolist(), strict=True):
            proposed.setdefault(image, []).append((size, success))
    assert sorted(proposed) == [row.image for row in rows]
    for row in rows:
        assert row.high == pytest.approx(min(size for size, success in proposed[row.image] if success), rel=1e-5)
        # What failed within an epsilon proposed something no larger; the float32 epsilon itself is a bit off.
        robust = max((size for size, success in proposed[row.image] if not success), default=0)
        assert row.low >= robust * (1 - 1e-5)


# What is known beforehand


@every_norm
def test_what_the_grid_knows_is_not_searched_for_again(norm: str) -> None:
    distances = exact(6, norm)
    middle = float(np.median(distances))
    eps = tuple(repr(factor * middle) for factor in (0.5, 0.9, 1.1, 2))
    ignorant, knowing = found(request_for(6, norm), norm), found(request_for(6, norm, eps=eps, steps=(20,)), norm)
    for one, other in zip(ignorant[:-1], knowing[:-1], strict=True):
        assert other.passes < one.passes
        assert other.high == pytest.approx(one.high, rel=1 / 50)
    assert sum(row.passes for row in knowing) < 0.7 * sum(row.passes for row in ignorant)


@every_norm
def test_radii_are_tried_between_what_was_robust_and_what_was_broken(
    norm: str, tried: list[tuple[AttackTarget, Judged]]
) -> None:
    distances = np.sort(exact(6, norm))
    # All images are robust within the first radius and broken within the second.
    near, far = 0.9 * float(distances[0]), 1.1 * float(distances[-1])
    found(request_for(6, norm, eps=(repr(near), repr(far)), steps=(20,)), norm)
    radii = torch.cat([torch.as_tensor(target.threat.epsilon) for target, _ in tried])
    # What is known to succeed is where the search along the boundary begins.
    assert near < radii.min() <= radii.max() <= far * (1 + 1e-6)
    assert len(radii) <= (COUNT - 1) * (1 + measuring.TRIES)


@every_norm
@pytest.mark.parametrize(
    ("flags", "factors"),
    [
        ({"attack": ("noise",)}, (1.5, 4)),
        ({"steps": (1,), "step_size": "0.0001"}, (1.5, 4)),
        ({"steps": (1, 20)}, (0.5, 3)),
    ],
    ids=["noise", "a tiny step", "steps of two lengths"],
)
def test_a_radius_within_which_a_weak_attack_failed_hides_no_smaller_distance(
    flags: dict[str, Any], factors: tuple[float, ...], norm: str
) -> None:
    distances = exact(7, norm)
    largest = NORMS[norm].diameter(SHAPE)
    eps = tuple(repr(min(factor * float(np.median(distances)), largest)) for factor in factors)
    *rows, _ = found(request_for(7, norm, eps=eps, **flags), norm)
    # Of seven halvings, one or two were spent above what turned out to succeed, and the others begin at 0.
    np.testing.assert_allclose(highs(rows), distances, rtol=1 / 10)
    assert all(row.low <= (row.high or np.inf) for row in rows)


def test_the_attack_has_the_most_steps_of_the_grid_and_twenty_at_least() -> None:
    # A plane too far away, so that every search goes to its end.
    for steps, spent in (((5, 3), 20), ((5, 30), 30)):
        first, *_ = found(request_for(3, "linf", lead=EVERYTHING, steps=steps), "linf")
        assert first.passes == measuring.DOUBLINGS * (2 * spent + 1)


@pytest.mark.parametrize(
    "flags",
    [
        {"attack": ("noise",), "loss": ("ce",)},
        {"attack": ("square",), "queries": 10, "loss": ("ce",)},
        {"attack": ("apgd_targeted",), "targets": 1},
    ],
    ids=["noise", "square", "targets"],
)
def test_an_attack_without_a_loss_of_its_own_leaves_the_margin_to_the_search(flags: dict[str, Any]) -> None:
    *rows, _ = found(request_for(8, "linf", **flags), "linf")
    np.testing.assert_allclose(highs(rows), exact(8, "linf"), rtol=1 / 50)


def test_every_norm_and_model_has_distances_of_its_own() -> None:
    networks = {"near": problem(9)[0], "far": problem(9, lead=4.0)[0]}
    _, images, _ = problem(9)
    labels = torch.zeros(COUNT, dtype=torch.long)
    asked: dict[str, Any] = {"norm": tuple(NORMS), "eps": ("0.1",), "distances": True, "loss": ("margin",)}
    request = own_request(networks, images, labels, 2, **asked)
    with Store() as store:
        carry_out(request, store)
        for (name, network), norm in ((pair, norm) for pair in networks.items() for norm in NORMS):
            reached = highs(store.select(DistanceRow, model=name, norm=norm))
            right = network(images).argmax(dim=1) == 0
            expected = [
                distance_to_the_plane(image.numpy(), network, norm) if correct else 0.0
                for image, correct in zip(images, right, strict=True)
            ]
            np.testing.assert_allclose(reached, expected, rtol=1 / 50, atol=1e-3)
        table = make_distances(store, request.identity)
    assert list(table.columns) == list(DistanceRow.columns())
    pairs = list(dict.fromkeys(zip(table["model"], table["norm"], strict=True)))
    assert pairs == [(name, norm) for name in networks for norm in NORMS]


# Proofs


def linear(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear network, of which distances can be proved, and images about which it is right but for the last."""
    network, images, labels = problem(seed)
    layer = nn.Linear(math.prod(SHAPE), 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-network.normal, network.normal]))
        layer.bias.copy_(torch.tensor([-network.offset, network.offset]))
    return nn.Sequential(nn.Flatten(), layer), images, labels


def proved(module: nn.Module, images: Tensor, labels: Tensor, **flags: Any) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Distances, results, and why nothing was certified."""
    asked: dict[str, Any] = {"norm": ("l2",), "eps": ("0.1",), "steps": (20,), "distances": True, "loss": ("margin",)}
    request = own_request({"plane": module}, images, labels, 2, **(asked | flags))
    with Store() as store:
        carry_out(request, store)
        (model,) = store.select(ModelRow)
        return make_distances(store, request.identity), make_records(store, request.identity), model.uncertified


@pytest.mark.parametrize("criterion", [{}, {"criterion": "targeted", "target": "1"}], ids=["any", "targeted"])
def test_what_is_certified_is_no_more_than_what_is_found(criterion: dict[str, Any]) -> None:
    module, images, labels = linear(5)
    distances, records, uncertified = proved(module, images, labels, **criterion)
    *right, wrong = distances.to_dict("records")
    assert math.isnan(wrong["certified"])
    assert len(right) == COUNT - 1
    for row, distance in zip(right, exact(5, "l2"), strict=True):
        # The plane ends at the pixel box, which the proof does not see.
        assert 0.5 * distance < row["certified"] <= distance
    assert uncertified == ""
    assert "certified" not in records["reasons"].iloc[0]


def test_what_contradicts_a_proof_is_counted_and_makes_the_row_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    module, images, labels = linear(5)
    monkeypatch.setattr(
        Certifier, "radii", lambda self, images, labels, norm: torch.full((len(images),), 50.0).double()
    )
    for evidence in ("off", "quick"):
        _, records, _ = proved(module, images, labels, evidence=evidence)
        assert records["trust"].tolist() == ["suspect"]
        assert "certified" in records["reasons"].iloc[0].split("; ")


def test_a_network_that_cannot_be_bounded_has_a_sentence_and_no_number() -> None:
    module, images, labels = linear(5)
    module = nn.Sequential(module, nn.GELU())
    distances, _, uncertified = proved(module, images, labels)
    assert distances["certified"].isna().all()
    assert distances["high"].notna().all()
    assert uncertified == "1: GELU has no bound, so that nothing is certified"


# Batches, interruptions


@every_norm
def test_batches_of_another_size_give_the_same_distances(norm: str) -> None:
    one, other = (found(request_for(10, norm, batch_size=size), norm) for size in (2, 64))
    assert one == other


def test_batches_of_another_size_give_the_same_distances_of_a_convolutional_network(tiny_zoo: Path) -> None:
    one, other = (
        found(tiny_request(tiny_zoo, model=("tiny-bcos",), limit=2, distances=True, batch_size=size), "l2", "tiny-bcos")
        for size in (1, 2)
    )
    assert [row.passes for row in one] == [row.passes for row in other]
    # A convolution sums in another order in another batch.
    np.testing.assert_allclose(highs(one), highs(other), rtol=1e-4)


class Killed(BaseException):
    """Nobody catches this."""


def test_a_run_that_is_killed_goes_on_with_the_images_that_are_missing(
    tmp_path: Path, tried: list[tuple[AttackTarget, Judged]], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(11, "l2", batch_size=3)
    whole = found(request, "l2")
    add = Store.add
    written: list[int] = []

    def dying(store: Store, *rows: Row) -> None:
        if rows and isinstance(rows[0], DistanceRow):
            if len(written) == 1:
                written.append(0)
                raise Killed
            written.append(len(rows))
        add(store, *rows)

    monkeypatch.setattr(Store, "add", dying)
    with Store(tmp_path / "run.sqlite") as store, pytest.raises(Killed):
        carry_out(request, store)
    with Store(tmp_path / "run.sqlite") as store:
        assert [row.image for row in store.select(DistanceRow)] == [0, 1, 2]
        assert make_distances(store, request.identity).empty
        tried.clear()
        carry_out(request, store)
        assert store.select(DistanceRow) == whole
        assert len(make_distances(store, request.identity)) == COUNT
        assert {image for target, _ in tried for image in target.rng.indices} == {3, 4}
        tried.clear()
        carry_out(request, store)
        assert tried == []
        assert store.seconds(request.cells[0], "distances") > 0


def test_nothing_is_measured_that_was_not_asked_for() -> None:
    request = request_for(11, "l2", distances=False)
    with Store() as store:
        carry_out(request, store)
        assert store.select(DistanceRow) == []
        assert make_distances(store, request.identity).empty
    assert request.identity.distances is False


# Curves

reaches = st.lists(st.none() | st.floats(0, 2).map(lambda value: round(value, 3)), min_size=2, max_size=12)


def table_of(reached: Sequence[float | None], model: str = "net", norm: str = "l2") -> pd.DataFrame:
    rows = [distance_row(image, 0.0, high, image, model=model, norm=norm) for image, high in enumerate(reached)]
    return pd.DataFrame([row.to_columns() for row in rows], columns=list(DistanceRow.columns()))


def grid_of(*points: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["norm", "epsilon"]).assign(model="net", trust="sound")


def curve(reached: Sequence[float | None], most: float) -> dict[str, Any]:
    (row,) = make_curves(table_of(reached), grid_of(("l2", 0.0), ("l2", most), ("linf", 1e9))).to_dict("records")
    assert tuple(row) == CURVE_COLUMNS
    return {str(key): value for key, value in row.items()}


@given(reached=reaches, most=st.floats(0.01, 3))
def test_the_area_is_that_under_accuracy_over_every_epsilon(reached: list[float | None], most: float) -> None:
    breaks = np.array([np.inf if high is None else high for high in reached])
    # Accuracy changes only where an image is broken, so that its value in the middle holds in between.
    edges = np.unique(np.concatenate([[0.0, most], breaks[breaks < most]]))
    middles = (edges[1:] + edges[:-1]) / 2
    accuracy = np.array([(breaks > middle).mean() for middle in middles])
    row = curve(reached, most)
    assert row["area"] == pytest.approx(float(accuracy @ np.diff(edges)) / most, rel=1e-12, abs=1e-12)
    assert (row["up_to"], row["images"], row["passes"]) == (most, len(breaks), sum(range(len(breaks))))


@given(reached=reaches, most=st.floats(0.01, 3))
def test_the_interval_of_the_area_is_students(reached: list[float | None], most: float) -> None:
    shares = [min(np.inf if high is None else high, most) / most for high in reached]
    row = curve(reached, most)
    spread = float(np.std(shares, ddof=1)) / math.sqrt(len(shares))
    low, high = stats.t.interval(0.95, len(shares) - 1, np.mean(shares), spread) if spread else 2 * [np.mean(shares)]
    assert (row["area_low"], row["area_high"]) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


@given(reached=reaches)
def test_the_median_is_empty_where_half_of_the_images_were_never_broken(reached: list[float | None]) -> None:
    ordered = sorted(math.inf if high is None else high for high in reached)
    count = len(ordered)
    expected = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    median = curve(reached, 1.0)["median_distance"]
    if math.isinf(expected):
        assert pd.isna(median)
    else:
        assert median == pytest.approx(expected, rel=1e-12)


def test_a_single_image_has_an_area_and_no_interval() -> None:
    row = curve([0.25], 1.0)
    assert (row["area"], row["median_distance"]) == (0.25, 0.25)
    assert math.isnan(row["area_low"])
    assert math.isnan(row["area_high"])


def test_a_grid_of_radius_0_alone_has_no_area() -> None:
    assert curve([0.25, None, 0.0], 0.0)["area"] == 0


def test_curves_have_a_row_for_each_model_and_norm_up_to_the_norms_largest_radius() -> None:
    tables = [table_of([1.0, 3.0], *pair) for pair in (("b", "l2"), ("b", "linf"), ("a", "l2"))]
    curves = make_curves(pd.concat(tables), grid_of(("l2", 2.0), ("l2", 0.5), ("linf", 4.0)))
    assert curves[["model", "norm", "up_to", "area"]].to_numpy().tolist() == [
        ["b", "l2", 2.0, 0.75],
        ["b", "linf", 4.0, 0.5],
        ["a", "l2", 2.0, 0.75],
    ]
    assert list(make_curves(table_of([]), grid_of()).columns) == list(CURVE_COLUMNS)
