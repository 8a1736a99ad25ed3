"""Image towers trained against features of texts, with classes held out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import find_models
from robustbench_bcos.training import workshop
from robustbench_bcos.training.objectives import objective_of
from robustbench_bcos.training.recipes import Recipe
from robustbench_bcos.training.trainer import check_fit, train
from robustbench_bcos.training.workshop import make_model
from tests.drafts import AS_BCOS, make_recipe

TEXTS: dict[str, Any] = {
    "encoder": "all_minilm_l6_v2",
    "width": 384,
    "scale": 10.0,
    "classes": ("cat", "dog", "ship", "truck"),
    "held_out": ("dog",),
}


def tower(**changes: Any) -> Recipe:
    start = {"name": "tower", "arguments": {"logit_bias": 0.0}, "dataset": "tinted", "classes": 4, "loss": "ce"}
    how = {"batch_size": 9, "float8_filters": True, "texts": TEXTS}
    return make_recipe(**AS_BCOS | start | how | changes)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Four colours; six images of each to train on, and three for testing."""
    colours = np.array([[90, 0, 0], [0, 90, 0], [0, 0, 90], [90, 90, 0]], dtype=np.uint8)
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 12)):
        for number in range(count):
            levels = random.integers(0, 160, (8, 4, 3), dtype=np.uint8) + colours[number % 4]
            file = tmp_path / "images" / split / TEXTS["classes"][number % 4] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels).save(file)
    return f"folder:{tmp_path}/images"


def test_a_class_that_is_held_out_is_not_seen_and_yet_an_output(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[EvalSubset] = []

    def watched(recipe: Recipe, images: EvalSubset, **settings: Any) -> Any:
        seen.append(images)
        return train(recipe, images, **settings)

    monkeypatch.setattr(workshop, "train", watched)
    card = make_model(tower(), tmp_path / "made", dataset=dataset)
    assert {images.dataset.labels[i] for images in seen for i in images.indices} == {0, 2, 3}
    assert card.texts == tower().texts
    assert card.clean_accuracy is not None
    # Of all classes, and as the file has it: in float8.
    model = find_models("tower", Zoo([tmp_path / "made"]))[0].load().classifier
    test = EvalSubset.of(open_dataset(dataset, "test"))
    images, labels, _ = test.batch(0, 12)
    right = model(images).argmax(dim=1) == labels
    assert (int(right.sum()), 12) == (card.clean_accuracy.correct, card.clean_accuracy.total)


def test_the_loss_knows_no_text_that_is_held_out() -> None:
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 3, 3, 0])
    moved = logits.clone()
    moved[:, 1] += 7
    objective = objective_of(tower())
    torch.testing.assert_close(objective(moved, labels), objective(logits, labels))
    rows = logits[:, [0, 2, 3]].log_softmax(dim=1)
    expected = -torch.stack([rows[i, place] for i, place in enumerate([0, 1, 2, 2, 0])])
    torch.testing.assert_close(objective(logits, labels), expected)
    assert not torch.allclose(objective_of(tower(texts=TEXTS | {"held_out": ()}))(moved, labels), expected)


def test_classes_in_another_order_than_the_images_are_refused() -> None:
    pixels = torch.zeros(4, 3, 8, 4)
    images = EvalSubset.of(InMemory(pixels, torch.arange(4), classes=4))
    check_fit(tower(), images)
    said = tower(texts=TEXTS | {"classes": ("3", "1", "2", "0"), "held_out": ()})
    with pytest.raises(RequestError, match=r"in another order than .*, which has 0, 1, 2, \.\.\.: list them"):
        check_fit(said, images)
