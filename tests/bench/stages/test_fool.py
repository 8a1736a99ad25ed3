"""Explanations attacked in a run: rows, controls and evidence, whatever the batches and interruptions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustbench_bcos.bench.evaluation import evaluate, fool
from robustbench_bcos.bench.fooled import (
    EVIDENCE,
    FOOLED_BY,
    FOOLED_COLUMNS,
    is_fooled,
    make_fooled,
    make_fooled_images,
    moved_by,
    withstands,
)
from robustbench_bcos.bench.fooling import Fooling
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import FooledRow
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.saving import save_adversarials
from robustbench_bcos.bench.stages import fool as stage
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.subset import EvalSubset, ShownObject
from robustbench_bcos.explanations.similarity import MEASURES
from tests.bench.own_request import own_request
from tests.bench.test_fooling import Aligned
from tests.bench.tiny_zoo import carry_out
from tests.cli.command_line import call, same_bytes, succeed

COUNT = 7
IMAGES = torch.rand((COUNT, 1, 4, 4), generator=torch.Generator().manual_seed(3)) * 0.4 + 0.3
LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1])


class Rectified(nn.Module):
    """A map that is constant between kinks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 12), nn.Linear(12, 2, bias=False)
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in (self.first.weight, self.first.bias):
                tensor.copy_(torch.randn(tensor.shape, generator=source))
            self.last.weight.copy_(torch.stack([torch.ones(12), -torch.ones(12)]))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.relu(self.first(images.flatten(1))))
        return logits


def asked(network: nn.Module | None = None, **flags: Any) -> Request:
    usual: dict[str, Any] = {"norm": ("l2",), "eps": ("0.4",), "steps": (4,), "goal": ("explanation:away",)}
    return own_request({"net": network or Aligned()}, IMAGES, LABELS, 2, **{**usual, **flags})


def found(request: Request) -> list[FooledRow]:
    with Store() as store:
        carry_out(request, store)
        return store.select(FooledRow)


def by_comparison(rows: Sequence[FooledRow], comparison: str) -> dict[int, FooledRow]:
    return {row.image: row for row in rows if row.comparison == comparison}


def test_every_image_that_the_model_is_right_about_has_an_attack_and_its_controls() -> None:
    rows = found(asked())
    for comparison in FOOLED_BY:
        compared = by_comparison([row for row in rows if row.attacked], comparison)
        assert sorted(compared) == [0, 1, 2, 3, 4, 5]
    assert [row.image for row in rows if not row.attacked] == [6]
    ours, noise = by_comparison(rows, "explanation"), by_comparison(rows, "noise")
    for image in range(6):
        assert ours[image].kept
        assert 0.3 < ours[image].size <= 0.4
        assert noise[image].size == pytest.approx(ours[image].size, rel=1e-4)
        assert ours[image].values["cosine"] < noise[image].values["cosine"] + 1e-3
        # The map is the image, so that the farthest is known.
        sine = 0.4 / float(IMAGES[image].norm())
        assert ours[image].values["cosine"] == pytest.approx((1 - sine**2) ** 0.5, abs=5e-3)


def test_evidence_on_the_object_is_that_of_each_maps_own_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map is the image; a pixel is void, and an image has an object of its own."""
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[0, 0] = False

    def region(index: int) -> Tensor:
        return (torch.arange(16).view(1, 4, 4) + index) % 3 == 0

    def shown(subset: EvalSubset) -> list[ShownObject | None]:
        return [None if index == 5 else ShownObject(region(index), valid) for index in subset.indices]

    monkeypatch.setattr(EvalSubset, "objects", shown)
    rows = found(asked())
    shares = [float((IMAGES[i] * region(i) * valid).sum() / (IMAGES[i] * valid).sum()) for i in range(5)]
    for comparison in FOOLED_BY:
        clean = [row.energy_clean for _, row in sorted(by_comparison(rows, comparison).items()) if row.attacked]
        assert clean == [*(pytest.approx(share, rel=1e-3) for share in shares), None]
    others = by_comparison(rows, "other")
    # Of each class the next one of the run, the first after the last.
    assert [others[image].energy for image in range(5)] == [*(pytest.approx(s, rel=1e-3) for s in shares[1:]), None]
    assert others[5].energy == pytest.approx(shares[0], rel=1e-3)
    assert by_comparison(rows, "explanation")[0].energy != pytest.approx(shares[0], rel=1e-3)


def test_batches_and_interruptions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "EXAMINED", 2)
    monkeypatch.setattr(stage, "AMONG", 4)
    flags: dict[str, Any] = {"evidence": "quick", "eps": ("0.05",)}
    whole = found(asked(**flags))
    # The run begins with images 0, 6, 1 and 2, of which 6 is misclassified.
    assert sorted(by_comparison(whole, "longer")) == [0, 1, 3, 4]
    assert found(asked(**flags, batch_size=8)) == whole
    with Store() as store:
        request = asked(**flags, batch_size=8)
        for progress in execute(request, store):
            if any(isinstance(row, FooledRow) for row in progress.rows):
                break
        assert 0 < len(store.fooled(request.cells[0])) < COUNT
        assert make_fooled(store, request.identity).empty
        carry_out(request, store)
        assert store.select(FooledRow) == whole
        assert [progress.rows for progress in execute(request, store)] == [()] * len(list(execute(request, store)))


@pytest.mark.parametrize(("evidence", "trust"), [("off", {"unchecked"}), ("quick", {"sound", "suspect"})])
def test_what_withstood_is_searched_again_as_evidence(evidence: str, trust: set[str]) -> None:
    request = asked(evidence=evidence, eps=("0.05",))
    with Store() as store:
        carry_out(request, store)
        (record,) = make_fooled(store, request.identity).to_dict("records")
        rows = store.select(FooledRow)
    assert record["trust"] in trust
    again = {row.comparison for row in rows} & set(EVIDENCE)
    assert again == (set() if evidence == "off" else set(EVIDENCE))
    assert record["withstood"] > 0
    assert record["examined"] == (0 if evidence == "off" else round(6 * record["withstood"]))


def test_columns_are_those_declared_and_agree_with_the_images() -> None:
    request = asked(goal=("explanation:away", "explanation:centre"), method=("dynamic_weights", "input_x_gradient"))
    with Store() as store:
        carry_out(request, store)
        table, images = make_fooled(store, request.identity), make_fooled_images(store, request.identity)
    assert tuple(table.columns) == FOOLED_COLUMNS
    assert {*zip(table["loss"], table["restarts"], strict=True)} == {("ce", 1)}
    assert list(images.columns) == list(FooledRow.columns())
    pairs = [(row["method"], row["goal"]) for row in table.to_dict("records")]
    assert sorted(pairs) == [
        (method, f"explanation:{goal}")
        for method in ("dynamic_weights", "input_x_gradient")
        for goal in ("away", "centre")
    ]
    first = table.iloc[0]
    shown = images[(images["method"] == first["method"]) & (images["comparison"] == "explanation") & images["attacked"]]
    shown = shown[shown["goal"] == "away"]
    assert first["spearman_explanation"] == pytest.approx(shown["spearman"].mean(), rel=1e-3)
    assert first["images"] == len(shown) == 6


def values(**of: float) -> dict[str, float | None]:
    return dict.fromkeys(MEASURES) | of


def test_a_map_has_moved_where_every_measure_says_so() -> None:
    limit = values(spearman=0.5, cosine=0.5, topk=0.5, mass=0.4, centre=1.0)
    cheated = values(spearman=0.9, cosine=0.1, topk=0.9, mass=0.1, centre=0.1)
    moved = values(spearman=0.5, cosine=0.1, topk=0.2, mass=0.4, centre=1.5)
    still = values(spearman=0.8, cosine=0.8, topk=0.8, mass=0.1, centre=0.5)
    row = {"cell": "", "method": "", "goal": "", "image": 0, "comparison": "", "attacked": True, "size": 0.0}
    row |= {"left": None, "degenerate_gradient": False, "passes": 0, "derivatives": "own"}
    outcomes = [
        (is_fooled(one, limit), withstands(one, limit))
        for one in (FooledRow(**row, kept=True, values=maps) for maps in (cheated, moved, still))
    ]
    assert outcomes == [(False, False), (True, False), (False, True)]
    assert withstands(FooledRow(**row, kept=False, values=moved), limit)
    assert moved_by(values(), limit) == []


@pytest.mark.parametrize(("network", "derivatives"), [(Aligned, "own"), (Rectified, "softplus")])
def test_the_second_derivatives_that_are_followed_are_named(network: type[nn.Module], derivatives: str) -> None:
    rows = found(asked(network(), method=("input_x_gradient",), skip_model_checks=True))
    assert {row.derivatives for row in rows} == {derivatives}


def test_a_model_without_second_derivatives_is_suspect() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        linear[1].weight.copy_(torch.stack([torch.ones(16), -torch.ones(16)]))
        linear[1].bias.zero_()
    request = asked(linear, method=("input_x_gradient",), evidence="quick")
    with Store() as store:
        carry_out(request, store)
        (record,) = make_fooled(store, request.identity).to_dict("records")
    assert record["derivatives"] == "none"
    assert record["trust"] == "suspect"
    assert "second derivatives of the model are 0" in record["reasons"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"method": ("lime",)},
            r"goal cannot be pursued for model 'net': maps of lime have no derivative.*choose from",
        ),
        ({"attack": ("square",)}, r"goal explanation:away needs an attack that can follow it: choose from apgd, pgd"),
        ({"goal": ("prediction",), "method": ("gradcam",)}, r"method says how explanations are attacked: give a goal"),
        ({"explained": 0}, r"goal explanation:away attacks explanations, and explained 0 leaves none: leave it out"),
        ({"goal": ("explanation:far",)}, r"unknown goal 'explanation:far'.*explanation:away"),
        ({"confidence_band": 1.5}, r"confidence_band"),
    ],
)
def test_what_cannot_be_pursued_is_refused_with_the_remedy(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        asked(**flags)


def test_a_confidence_band_bounds_how_far_a_map_is_moved() -> None:
    free, narrow = (
        by_comparison(found(asked(eps=("1",), **band)), "explanation") for band in ({}, {"confidence_band": 1e-4})
    )
    assert all(narrow[image].values["cosine"] >= free[image].values["cosine"] for image in range(6))
    assert any(narrow[image].values["cosine"] > free[image].values["cosine"] + 0.01 for image in range(6))


class Once(torch.autograd.Function):
    """A step whose gradient has none."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return features.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class OnceOnly(Rectified):
    """A model that torch differentiates once."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = Once.apply(super().forward(images))
        return logits


class Fused(Rectified):
    """A model that insists on an attention of which torch has no second derivative, and says so."""

    def forward(self, images: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            attended = nn.functional.scaled_dot_product_attention(images, images, images)
        return super().forward(attended)


def test_a_layer_without_a_second_derivative_is_suspect_where_torch_says_nothing() -> None:
    request = asked(OnceOnly(), method=("gradient",), evidence="quick")
    with Store() as store:
        carry_out(request, store)
        (record,) = make_fooled(store, request.identity).to_dict("records")
    assert (record["derivatives"], record["trust"]) == ("wrong", "suspect")
    assert "gradients of the maps are not their slopes" in record["reasons"]


def test_a_layer_without_a_second_derivative_is_refused_where_torch_says_so() -> None:
    with pytest.raises(RequestError, match=r"torch has no second derivative of its gradient \(derivative for"):
        asked(Fused(), method=("gradient",))


def test_saved_pictures_are_of_the_same_class_when_they_are_read_again(tmp_path: Path) -> None:
    network = Aligned()
    request = asked(network, save_adversarials=True)
    with Store() as store:
        carry_out(request, store)
        (home,) = save_adversarials(request, store, tmp_path)
    files = sorted((home / "dynamic_weights-away").glob("*/*.png"))
    assert [file.stem for file in files] == ["0", "1", "2", "3", "4", "5"]
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    read = torch.from_numpy(pixels).float()[:, None] / 255
    assert network(read).argmax(dim=1).tolist() == [0] * 6
    assert (read - IMAGES[:6]).flatten(1).norm(dim=1).max() < 0.4 + 0.5 / 255 * 4
    assert (read - IMAGES[:6]).flatten(1).norm(dim=1).min() > 0.3


def test_the_same_from_python_with_tables_and_in_the_rows_of_evaluate() -> None:
    given: Any = (Aligned(), IMAGES, LABELS, "l2", 0.4)
    with Store() as store:
        request = asked(goal=("explanation:away", "explanation:topk"))
        carry_out(request, store)
        table, images = make_fooled(store, request.identity), make_fooled_images(store, request.identity)
    options: Any = {"steps": 4, "channels": 1, "evidence": "off"}
    found = fool(*given, name="net", goal=("explanation", "explanation:topk"), **options)
    pd.testing.assert_frame_equal(found.rows.drop(columns="cell"), table.drop(columns="cell"))
    pd.testing.assert_frame_equal(found.images.drop(columns="cell"), images.drop(columns="cell"))
    (row,) = evaluate(*given, goal="explanation", **options).to_dict("records")
    assert row["explanation_withstood_least"] == table["withstood_worst"].iloc[0]
    with pytest.raises(RequestError, match="goal prediction leaves explanations alone: choose from explanation"):
        fool(*given, goal="prediction", channels=1)


def test_a_command_that_is_interrupted_in_the_midst_of_a_goal_ends_with_the_same_bytes(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goals = ("--goal", "explanation:away,explanation:centre", "--explained", 4, "--batch-size", 8)
    command = ("run", "--zoo", tiny_zoo, "--model", "tiny-bcos", "--steps", 1, "--limit", 4, *goals, "--no-figures")
    command = (*command, "--evidence", "off")
    succeed(*command, "--out", tmp_path / "whole", "--quiet")
    searched, calls = Fooling.fool, iter(range(3))

    def stopped(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return searched(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Fooling, "fool", stopped)
        assert call(*command, "--out", tmp_path / "halted", "--quiet").code == 130
    assert not (tmp_path / "halted/fooled.csv").exists()
    succeed(*command, "--out", tmp_path / "halted", "--quiet")
    same_bytes(tmp_path / "halted", tmp_path / "whole", ("results.csv", "fooled.csv", "fooled_images.csv"))
