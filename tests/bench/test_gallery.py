"""A gallery shows what the public explain and an attack say of its images, whatever the batches."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_bcos
from robustbench_bcos import RequestError
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.gallery import BATCH, ExplainedGallery, Gallery
from robustbench_bcos.bench.pictures import View
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import Batch, EvalSubset
from robustbench_bcos.explanations.colours import render
from robustbench_bcos.explanations.explanation import Explanation
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import Model, find_models, own_model

MODELS = ("digits-natural", "digits-bcos-b2")
INDICES = (41, 7, 1796, 3, 20)
ARRAYS = ("images", "logits", "targets", "contributions", "pictures", "weights")

every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: find_models(name, Zoo([]))[0].load() for name in MODELS}


def digits(*indices: int) -> Batch:
    return EvalSubset(Digits("test"), indices or (0, 12, 33, 5, 360)).batch(0, max(len(indices), 5))


def cell(model: Model, **flags: Any) -> Cell:
    asked = {"norm": ("l2",), "eps": ("0.6",), "steps": (4,)} | flags
    return make_cells(make_config(asked), [model.name])[0]


def public(
    model: Model, images: Tensor, targets: Tensor | None = None, method: str = "auto", *, seed: int = 0
) -> Explanation:
    return robustbench_bcos.explain(model.classifier, images, targets, method, rng=PerImageRng.of(seed, INDICES))


def holds(explained: ExplainedGallery, images: Tensor, expected: Explanation, prefix: str = "") -> None:
    """The arrays are those of the explanation, to the last bit: the batch is the same."""
    arrays = {name: explained.arrays[f"{prefix}{name}"] for name in ARRAYS if f"{prefix}{name}" in explained.arrays}
    tensors = vars(expected) | {"images": images, "pictures": render(expected, images)}
    assert {name for name, tensor in tensors.items() if tensor is not None} == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, tensors[name].detach().numpy(), err_msg=name)


# Explanations


@pytest.mark.parametrize("contrast", [None, "mean"])
def test_each_image_is_pictured_once_for_each_class_that_is_asked_for(
    contrast: str | None, models: dict[str, Model]
) -> None:
    model, batch = models["digits-bcos-b2"], digits()
    how = {"model": model, "indices": INDICES, "labels": batch.labels, "contrast": contrast}
    many = Gallery(images=batch.images, targets=(7, 2, 4), **how).explain()
    assert [picture.image for picture in many.pictures] == [index for index in INDICES for _ in range(3)]
    assert many.arrays["targets"].tolist() == [7, 2, 4] * len(INDICES)
    for place, target in enumerate((7, 2, 4)):
        one = Gallery(images=batch.images, targets=(target,), **how).explain()
        assert set(one.arrays) == set(many.arrays)
        for name, array in one.arrays.items():
            np.testing.assert_allclose(many.arrays[name][place::3], array, rtol=1e-4, atol=1e-6, err_msg=name)
        shows = [picture.clean.prediction for picture in one.pictures]
        assert [picture.clean.prediction for picture in many.pictures[place::3]] == shows


@every_model
def test_arrays_are_what_the_public_explain_gives(name: str, models: dict[str, Model]) -> None:
    images = digits().images
    explained = Gallery(model=models[name], images=images, indices=INDICES).explain()
    holds(explained, images, public(models[name], images))
    assert set(explained.arrays) == set(ARRAYS)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("digits-natural", "gradcam"),
        ("digits-natural", "deeplift"),
        ("digits-bcos-b2", "input_x_gradient"),
        ("digits-bcos-b2", "integrated_gradients"),
        ("digits-bcos-b2", "lime"),
    ],
)
def test_any_method_can_be_asked_for(name: str, method: str, models: dict[str, Model]) -> None:
    images = digits().images
    explained = Gallery(model=models[name], images=images, indices=INDICES, method=method, seed=3).explain()
    holds(explained, images, public(models[name], images, None, method, seed=3))


def test_a_method_that_draws_draws_by_seed_and_number_of_the_image(models: dict[str, Model]) -> None:
    images = digits().images[:2]

    def contributions(indices: tuple[int, ...], seed: int) -> Any:
        gallery = Gallery(model=models["digits-bcos-b2"], images=images, indices=indices, method="lime", seed=seed)
        return gallery.explain().arrays["contributions"]

    known = contributions((4, 9), 0)
    np.testing.assert_array_equal(contributions((4, 9), 0), known)
    assert (contributions((4, 9), 1) != known).any()
    again = contributions((4, 8), 0)
    np.testing.assert_array_equal(again[0], known[0])
    assert (again[1] != known[1]).any()


@every_model
def test_pictures_show_the_arrays(name: str, models: dict[str, Model]) -> None:
    batch = digits()
    explained = Gallery(model=models[name], images=batch.images, indices=INDICES, labels=batch.labels).explain()
    assert [picture.image for picture in explained.pictures] == list(INDICES)
    assert [picture.label for picture in explained.pictures] == batch.labels.tolist()
    assert all(picture.attacked is None for picture in explained.pictures)
    for place, picture in enumerate(explained.pictures):
        shows(picture.clean, explained, place, models[name].loss)


def shows(view: View, explained: ExplainedGallery, place: int, loss: str, prefix: str = "") -> None:
    arrays = {name: explained.arrays[f"{prefix}{name}"][place] for name in ARRAYS}
    np.testing.assert_array_equal(view.pixels, arrays["images"])
    np.testing.assert_array_equal(view.explanation, arrays["pictures"])
    np.testing.assert_array_equal(view.contributions, arrays["contributions"])
    assert view.prediction == arrays["logits"].argmax()
    # float32 logits; the probability is that of the training: classes apart (bce) or together.
    odds = np.exp(arrays["logits"].astype(np.float64) - arrays["logits"].max())
    together = odds.max() / odds.sum()
    apart = 1 / (1 + np.exp(-arrays["logits"].max().astype(np.float64)))
    assert view.confidence == pytest.approx({"bce": apart, "ce": together}[loss], rel=1e-5)


def test_images_of_no_known_class_have_no_label(models: dict[str, Model]) -> None:
    explained = Gallery(model=models["digits-natural"], images=digits().images, indices=INDICES).explain()
    assert [picture.label for picture in explained.pictures] == [None] * 5


@every_model
def test_a_target_is_explained_in_place_of_the_prediction(name: str, models: dict[str, Model]) -> None:
    images = digits().images
    explained = Gallery(model=models[name], images=images, indices=INDICES, targets=(3,)).explain()
    holds(explained, images, public(models[name], images, torch.full((5,), 3)))
    assert (explained.arrays["targets"] == 3).all()
    predictions = explained.arrays["logits"].argmax(axis=1)
    assert (predictions != 3).any()
    assert [picture.clean.prediction for picture in explained.pictures] == predictions.tolist()


def test_what_is_handed_over_is_left_alone(models: dict[str, Model]) -> None:
    batch = digits()
    before = batch.images.clone(), batch.labels.clone()
    model = models["digits-bcos-b2"]
    Gallery(model=model, images=batch.images, indices=INDICES, labels=batch.labels, cell=cell(model)).explain()
    assert torch.equal(batch.images, before[0])
    assert torch.equal(batch.labels, before[1])


# Attacks


def attacked(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str,
    seed: int = 0,
    criterion: str = "misclassified",
    loss: str = "",
    steps: int = 4,
    **how: Any,
) -> Tensor:
    """The best iterate of an attack set up by hand."""
    attack = PGD(steps=steps, loss=loss or model.loss, select="best_loss", **how)
    threat = Threat.of(norm, {"l2": 0.6, "linf": "8/255"}[norm])
    rng = PerImageRng.of(seed, INDICES)
    return attack(model.classifier, images, labels, threat, criterion=criterion, rng=rng).adversarials


@every_model
@pytest.mark.parametrize(("norm", "eps"), [("l2", "0.6"), ("linf", "8/255")])
def test_the_attacked_images_are_the_worst_that_the_attack_saw(
    name: str, norm: str, eps: str, models: dict[str, Model]
) -> None:
    model, batch = models[name], digits()
    asked = cell(model, norm=(norm,), eps=(eps,))
    explained = Gallery(model=model, images=batch.images, indices=INDICES, labels=batch.labels, cell=asked).explain()
    adversarials = attacked(model, batch.images, batch.labels, norm=norm)
    assert (adversarials != batch.images).flatten(1).any(dim=1).all()
    holds(explained, batch.images, public(model, batch.images))
    holds(explained, adversarials, public(model, adversarials), "attacked_")
    for place, picture in enumerate(explained.pictures):
        assert picture.attacked is not None
        shows(picture.attacked, explained, place, model.loss, "attacked_")
        shows(picture.clean, explained, place, model.loss)


@pytest.mark.parametrize(("asked", "own"), [("auto", "bce"), ("ce", "ce"), ("margin", "margin")])
def test_steps_loss_restarts_and_seed_are_those_asked_for(asked: str, own: str, models: dict[str, Model]) -> None:
    model, batch = models["digits-bcos-b2"], digits()
    how = cell(model, steps=(2,), restarts=(3,), loss=(asked,))
    explained = Gallery(
        model=model, images=batch.images, indices=INDICES, labels=batch.labels, cell=how, seed=5
    ).explain()
    expected = attacked(model, batch.images, batch.labels, norm="l2", loss=own, steps=2, restarts=3, seed=5)
    np.testing.assert_array_equal(explained.arrays["attacked_images"], expected.numpy())


@every_model
def test_without_labels_an_attack_leads_away_from_the_prediction(name: str, models: dict[str, Model]) -> None:
    model, batch = models[name], digits()
    with torch.no_grad():
        predicted = model.classifier(batch.images).argmax(dim=1)
    how = cell(model)
    gallery = Gallery(model=model, images=batch.images, indices=INDICES, cell=how)
    unknown = gallery.explain().arrays["attacked_images"]
    np.testing.assert_array_equal(unknown, attacked(model, batch.images, predicted, norm="l2").numpy())
    wrong = (predicted + 1) % 10
    known = replace(gallery, labels=wrong).explain().arrays["attacked_images"]
    np.testing.assert_array_equal(known, attacked(model, batch.images, wrong, norm="l2").numpy())
    assert (known != unknown).any()


def test_a_target_is_explained_before_and_after_and_changes_no_attack(models: dict[str, Model]) -> None:
    model, batch = models["digits-bcos-b2"], digits()
    how = cell(model)
    explained = Gallery(
        model=model, images=batch.images, indices=INDICES, labels=batch.labels, targets=(8,), cell=how
    ).explain()
    adversarials = attacked(model, batch.images, batch.labels, norm="l2")
    holds(explained, adversarials, public(model, adversarials, torch.full((5,), 8)), "attacked_")


def test_an_attack_may_lead_to_a_class(models: dict[str, Model]) -> None:
    model, batch = models["digits-natural"], digits()
    how = cell(model, criterion="targeted", target="3")
    gallery = Gallery(model=model, images=batch.images, indices=INDICES, labels=batch.labels, cell=how)
    expected = attacked(model, batch.images, batch.labels, norm="l2", criterion="targeted:3")
    np.testing.assert_array_equal(gallery.explain().arrays["attacked_images"], expected.numpy())


# Batches


@pytest.mark.parametrize("labelled", [True, False])
def test_batches_change_nothing(labelled: bool, models: dict[str, Model]) -> None:
    """Images of a second batch keep their numbers, labels and draws: they are as if they were alone."""
    model = models["digits-bcos-b2"]
    places = tuple(range(100, 170))
    indices = tuple(range(500, 570))
    batch = digits(*places)
    how = cell(model, steps=(1,), restarts=(2,))

    def explained(part: slice) -> ExplainedGallery:
        labels = batch.labels[part] if labelled else None
        return Gallery(
            model=model, images=batch.images[part], indices=indices[part], labels=labels, cell=how, seed=2
        ).explain()

    everything = explained(slice(None))
    parts = [explained(slice(0, BATCH)), explained(slice(BATCH, None))]
    assert [picture.image for picture in everything.pictures] == list(indices)
    assert [picture.label for picture in everything.pictures] == (batch.labels.tolist() if labelled else [None] * 70)
    assert set(everything.arrays) == set(parts[0].arrays)
    for name, array in everything.arrays.items():
        assert len(array) == 70
        np.testing.assert_array_equal(array, np.concatenate([part.arrays[name] for part in parts]), err_msg=name)
    # A convolution sums in another order in a batch of 70, and a picture divides by its own small alpha.
    whole = robustbench_bcos.explain(model.classifier, batch.images)
    np.testing.assert_allclose(everything.arrays["logits"], whole.logits.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(everything.arrays["contributions"], whole.contributions.numpy(), rtol=1e-3, atol=1e-3)


# What cannot be shown


class Broken(nn.Module):
    """Three logits, of which that of a dark image is no number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: Tensor) -> Tensor:
        logits = images.mean(dim=(2, 3))
        return torch.where(logits < 0.1, self.value, logits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    images = torch.full((3, 3, 5, 4), 0.5)
    gallery = Gallery(model=own_model("mine", Broken(value)), images=images, indices=(0, 1, 2))
    assert len(gallery.explain().pictures) == 3
    images[1, 2] = 0
    with pytest.raises(RequestError, match=r"^model 'mine' gives NaN or infinite logits on these images: check both$"):
        gallery.explain()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": "gradcamm"}, "unknown explanation method 'gradcamm': did you mean 'gradcam'?"),
        ({"method": "deeplift"}, "deeplift has no rule for B-cos layers: choose"),
        ({"targets": (10,)}, "target 10 is not a class of this model: choose from 0 to 9"),
        ({"targets": (-1,)}, "target -1 is not a class of this model: choose from 0 to 9"),
    ],
)
def test_what_cannot_be_explained_is_refused(asked: dict[str, Any], said: str, models: dict[str, Model]) -> None:
    with pytest.raises(RequestError) as caught:
        Gallery(model=models["digits-bcos-b2"], images=digits().images, indices=INDICES, **asked).explain()
    assert str(caught.value).startswith(said)
