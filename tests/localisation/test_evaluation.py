"""Games from Python, with models and images in memory."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_bcos as rb
from robustbench_bcos.core.errors import RequestError
from tests.reference import mask_scores

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
            share = positive[row.image] / sum(positive.values())
            assert row.score == pytest.approx(share, rel=5.01e-4)  # half a unit of the fourth digit


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
        rtol=1e-3,
        atol=1e-5,
        equal_nan=True,
    )


class Narrow(Colours):
    """There is memory for so many whole grids at a time, or pixels of other pictures."""

    def __init__(self, grids: int, error: type[Exception], words: str) -> None:
        super().__init__()
        self.room, self.error, self.words = grids * 4 * SIDE**2, error, words

    def forward(self, images: Tensor) -> Tensor:
        if images[:, 0].numel() > self.room:
            raise self.error(self.words)
        return super().forward(images)


CPU = "DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(
    ("method", "room", "error", "words"),
    [
        ("input_x_gradient", 2, torch.OutOfMemoryError, "CUDA out of memory"),
        # One grid at 50 points of a path, and not two.
        ("integrated_gradients", 60, RuntimeError, CPU),
        # Each grid beside its baseline: two by themselves fit, and not four.
        ("deeplift", 3, RuntimeError, CPU),
    ],
)
def test_grids_that_do_not_fit_into_memory_are_explained_fewer_at_a_time(
    method: str, room: int, error: type[Exception], words: str
) -> None:
    images, labels = pictures(16)
    asked = {"method": method, "grids": 4, "norm": "l2", "eps": 0.5, "steps": 1, "batch_size": 4}
    wide = rb.localise(Colours(), images, labels, name="net", **asked)
    found = rb.localise(Narrow(room, error, words), images, labels, name="net", **asked)
    torch.testing.assert_close(
        torch.tensor(found.cells["score"].to_numpy(dtype=float)),
        torch.tensor(wide.cells["score"].to_numpy(dtype=float)),
        rtol=1e-3,
        atol=1e-5,
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
        ({"cells": 9}, "has images of 4: choose cells 4"),
        ({"cells": 5}, "cells 5 must be 4 or 9"),
        ({"smooth": 4}, "smooth 4 must be odd"),
        ({"min_confidence": 1.0}, "give more images, or a lower min_confidence"),
        ({"norm": "l2"}, "eps is missing"),
        ({"method": "gradcamm"}, "did you mean 'gradcam'"),
        ({"protocol": "bcos"}, "unknown protocol 'bcos'"),
        ({"grid": 3}, "unknown option 'grid'"),
        ({"limit": 3}, "or give the command `localise` the model as module:callable"),
        ({"condition": "noisy"}, "condition"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(options: dict[str, object], words: str) -> None:
    images, labels = pictures(16)
    with pytest.raises(RequestError) as refused:
        rb.localise(Colours(), images, labels, **{"min_confidence": 0} | options)
    assert words in str(refused.value)


def scenes(count: int = 4) -> tuple[Tensor, Tensor]:
    """Red beside blue with void between them, and masks that say so; the last shows nothing."""
    images = torch.full((count, 3, SIDE, 2 * SIDE), 0.2)
    images[:, 0, :, :5], images[:, 2, :, 6:10] = 0.9, 0.7
    images += 0.1 * torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    masks = torch.full((count, SIDE, 2 * SIDE), -1)
    masks[:, :, :5], masks[:, :, 5], masks[:, :, 6:10] = 0, -2, 2
    masks[-1] = -2
    return images, masks


def test_masks_score_the_linear_map_and_thresholds_come_from_other_pictures() -> None:
    images, masks = scenes()
    found = rb.localise(Colours(), images, masks=masks.numpy())
    assert any("Left out: 1 image " in note for note in found.notes)
    cells = found.cells[found.cells["method"] == "input_x_gradient"]
    assert set(cells["scene"]) == {0, 1, 2}
    assert set(cells["label"]) == {0, 2}
    filters = Colours().filters.detach()
    columns = zip(cells["image"].tolist(), cells["label"].tolist(), cells["measure"], cells["score"], strict=True)
    for image, label, measure, score in columns:
        one = torch.einsum("chw,c->hw", images[image], filters[label]).double().numpy()
        region, valid = (masks[image] == label).numpy(), (masks[image] != -2).numpy()
        energy = mask_scores.energy(one, region, valid)
        expected = {
            "energy": energy,
            "energy_ratio": energy / mask_scores.area(region, valid),
            "average_precision": mask_scores.average_precision(one, region, valid),
        }
        if measure == "iou":
            curve = [mask_scores.iou(one, region, valid, step / 20) for step in range(1, 20)]
            assert any(score == pytest.approx(value, rel=5.01e-4) for value in curve)
        else:
            assert score == pytest.approx(expected[measure], rel=5.01e-4)


def test_maps_that_are_not_finite_are_counted_and_the_others_scored() -> None:
    class Broken(Colours):
        def forward(self, images: Tensor) -> Tensor:
            # At 0.95, the gradient of what is 0 is NaN.
            return super().forward(images) + 0 * (images[:, :1, :1, :1] - 0.95).abs().sqrt().sum(dim=(2, 3))

    images, masks = scenes()
    images[0, 0, 0, 0] = 0.95
    found = rb.localise(Broken(), images, masks=masks)
    rows = found.rows[(found.rows["method"] == "input_x_gradient") & (found.rows["measure"] == "energy")]
    assert rows["not_finite"].item() > 0
    assert np.isfinite(rows["mean"].item())


def test_masks_that_do_not_fit_are_refused() -> None:
    images, masks = scenes()
    with pytest.raises(RequestError, match="one for each of 4 images"):
        rb.localise(Colours(), images, masks=masks[:2])
    with pytest.raises(RequestError, match="classes from 0 to 3"):
        rb.localise(Colours(), images, masks=masks.clamp(min=0) + 9, labels=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(RequestError, match="whole numbers"):
        rb.localise(Colours(), images, masks=masks * 1.0)
    with pytest.raises(RequestError, match="none of the 4 masks"):
        rb.localise(Colours(), images, masks=masks * 0 - 2)
