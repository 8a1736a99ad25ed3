"""Games from Python, with models and images in memory."""

import pytest
import torch
from torch import Tensor, nn

import robustbench_bcos as rb
from robustbench_bcos.core.errors import RequestError

CLASSES, SIDE = 4, 6


class Colours(nn.Module):
    """How red, green, blue and bright an image is: linear, so that maps are known."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        # One filter for each class; positions are summed, so that larger pictures are served.
        self.filters = nn.Parameter(scale * torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2], [1, 1, 1]]))

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,kc->nk", images, self.filters)


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Red, green, blue and white images, with a little noise."""
    labels = torch.arange(count) % CLASSES
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.8, 0.8, 0.8]])
    noise = 0.05 * torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return colours[labels][:, :, None, None] + noise, labels


def test_scores_are_those_of_the_linear_map_itself() -> None:
    images, labels = pictures(20)
    found = rb.localise(Colours(), images, labels, grids=3, min_confidence=0)
    assert list(found.rows["condition"]) == ["clean"]
    assert found.rows["pictures"].item() == 3
    assert "Pictures are clean" in found.notes[-1]
    weights = Colours().filters.detach()
    for scene, cells in found.cells.groupby("scene"):
        shown = {int(row.image): images[int(row.image)] for row in cells.itertuples()}
        assert len(shown) == 4, scene
        for row in cells.itertuples():
            positive = {
                image: torch.einsum("chw,c->hw", pixels, weights[row.label]).clamp(min=0).sum().item()
                for image, pixels in shown.items()
            }
            assert row.score == pytest.approx(positive[row.image] / sum(positive.values()), rel=1e-5)


def test_several_models_are_compared_on_the_same_grids_and_only_then() -> None:
    images, labels = pictures(24)
    models = {"one": Colours(), "two": Colours(scale=0.1)}
    found = rb.localise(models, images, labels, method=["input_x_gradient", "integrated_gradients"])
    shared = found.cells.groupby("model")["image"].apply(list)
    assert shared["one"] == shared["two"]
    between = found.comparisons.groupby("between").size().to_dict()
    assert between == {"methods": 2, "models": 2}
    # Scaling logits changes no share, and integrating a constant gradient nothing either.
    assert found.comparisons["difference"].abs().max() < 1e-6
    own = rb.localise(models, images, labels, own_grids=True)
    assert "models" not in set(own.comparisons["between"])


@pytest.mark.parametrize("budget", ["picture", "grid"])
def test_an_attack_keeps_its_budget_for_each_image_or_for_the_grid(budget: str) -> None:
    images, labels = pictures(16)
    found = rb.localise(
        Colours(), images, labels, norm="l2", eps=0.3, steps=3, budget=budget, min_confidence=0, attack="pgd"
    )
    by_condition = found.cells.groupby("condition")["size"]
    assert by_condition.max().to_dict() == pytest.approx({"clean": 0, "attack": 0.3, "noise": 0.3}, abs=1e-3)
    assert set(found.rows.loc[found.rows["condition"] == "attack", "budget"]) == {budget}
    assert (found.rows["kept"] + found.rows["lost"] == found.rows["regions"]).all()


@pytest.mark.parametrize(
    "asked", [{"norm": "linf", "eps": "8/255", "steps": 2}, {"method": "lime", "grids": 2, "seed": 1}]
)
def test_the_same_images_give_the_same_numbers_whatever_the_batch(asked: dict[str, object]) -> None:
    images, labels = pictures(24)
    one = rb.localise(Colours(), images, labels, batch_size=1, **asked)
    all_at_once = rb.localise(Colours(), images, labels, **asked)
    torch.testing.assert_close(
        torch.tensor(one.cells["score"].to_numpy(dtype=float)),
        torch.tensor(all_at_once.cells["score"].to_numpy(dtype=float)),
        rtol=1e-4,
        atol=1e-5,
        equal_nan=True,
    )


class Nothing(Colours):
    """Its maps are negative everywhere, or not finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: Tensor) -> Tensor:
        whole = images.shape[-1] > SIDE
        logits: Tensor = super().forward(images)
        return logits * self.value if whole else logits


@pytest.mark.parametrize(("value", "outcome"), [(0.0, "empty"), (float("nan"), "not_finite")])
def test_maps_that_point_nowhere_are_counted_and_not_scored(value: float, outcome: str) -> None:
    images, labels = pictures(16)
    found = rb.localise(Nothing(value), images, labels, min_confidence=0, method="input_x_gradient")
    assert set(found.cells["outcome"]) == {outcome}
    assert found.cells["score"].isna().all()
    assert found.rows[outcome].item() == found.rows["regions"].item() == 16
    assert found.rows["mean"].isna().all()


class OneSize(Colours):
    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != SIDE:
            raise RuntimeError(f"expected {SIDE} pixels")
        return super().forward(images)


def test_models_of_one_size_are_refused_but_under_windows() -> None:
    images, labels = pictures(16)
    with pytest.raises(RequestError, match="choose models that pool over positions"):
        rb.localise(OneSize(), images, labels, min_confidence=0)
    found = rb.localise(OneSize(), images, labels, min_confidence=0, protocol="windowed")
    assert set(found.rows["protocol"]) == {"windowed"}
    assert found.rows["mean"].item() > 0.25


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cells": 9}, "no grid of 9 distinct classes can be made: 16 of 16 images"),
        ({"cells": 5}, "cells 5 must be 4 or 9"),
        ({"smooth": 4}, "smooth 4 must be odd"),
        ({"min_confidence": 1.0}, "give more images, or a lower min_confidence"),
        ({"norm": "l2"}, "eps is missing"),
        ({"method": "gradcamm"}, "did you mean 'gradcam'"),
        ({"protocol": "bcos"}, "unknown protocol 'bcos'"),
        ({"grid": 3}, "unknown option 'grid'"),
        ({"condition": "noisy"}, "condition"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(options: dict[str, object], words: str) -> None:
    images, labels = pictures(16)
    with pytest.raises(RequestError) as refused:
        rb.localise(Colours(), images, labels, **{"min_confidence": 0} | options)
    assert words in str(refused.value)
