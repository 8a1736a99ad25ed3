"""A model that only guesses: told from a weak one, and never where nobody could tell."""

from collections.abc import Sequence

import pytest

from robustbench_bcos.bench.cells import make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence.trust import Judgement, Trust
from robustbench_bcos.bench.store import Store
from tests.bench.by_hand import clean_row, evidence_row, identity_of, model_row, not_attacked, verdict_row
from tests.bench.evidence.test_trust import OF_CELL, OF_MODEL

(CELL,) = make_cells(make_config({"eps": ("0.5",), "norm": ("l2",)}), ["net"])


def judged(
    store: Store, labels: Sequence[int], predictions: Sequence[int], *, classes: int = 10, evidence: str = "full"
) -> Trust:
    """The judgement on a row of these clean predictions, of which no other check finds anything."""
    store.add(model_row())
    for image, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
        verdict = verdict_row(CELL, image, nearness=-1.0) if label == prediction else not_attacked(CELL, image)
        store.add(clean_row(image, label, prediction), verdict)
    store.add(*(evidence_row("net", name) for name in OF_MODEL), *(evidence_row(CELL.key, name) for name in OF_CELL))
    identity = identity_of(CELL, images=len(labels), evidence=evidence, classes=classes)
    return Judgement(store, identity).of(CELL)


def wrong(labels: Sequence[int], first: int, classes: int = 10) -> list[int]:
    """Right about the first so many images, and wrong in all ways about the others."""
    return [
        label if place < first else (label + 1 + place * 7 % (classes - 1)) % classes
        for place, label in enumerate(labels)
    ]


HUNDRED = [place % 10 for place in range(100)]


@pytest.mark.parametrize("evidence", ["full", "off"])
@pytest.mark.parametrize(
    ("labels", "right", "classes"),
    [(HUNDRED, 0, 10), (HUNDRED, 14, 10), (HUNDRED, 9, 1000), ([0] * 60 + [1] * 40, 60, 2)],
    ids=["nothing", "one in ten", "ten labels of a thousand", "the commonest of two"],
)
def test_an_accuracy_that_guesses_have_undermines_the_row(
    labels: list[int], right: int, classes: int, evidence: str, store: Store
) -> None:
    trust = judged(store, labels, wrong(labels, right, classes), classes=classes, evidence=evidence)
    assert (trust.trust, trust.reasons) == ("suspect", "guessing")
    (said,) = (outcome for outcome in trust.outcomes if outcome.check == "guessing")
    assert said.sentence == f"{100 - right} of 100 images misclassified without an attack, which is what guesses do"


@pytest.mark.parametrize(
    ("labels", "right", "classes"),
    [
        (HUNDRED, 17, 10),
        (HUNDRED[:4], 3, 10),
        ([7] * 50, 50, 10),
        ([7] * 50, 1, 10),
        ([0, 1], 0, 2),
        ([0] * 60 + [1] * 40, 69, 2),
        (HUNDRED[:1], 0, 10),
    ],
    ids=["weak", "three of four", "one label", "one label wrong", "too few", "better than the commonest", "one image"],
)
def test_a_weak_model_and_few_images_accuse_nobody(labels: list[int], right: int, classes: int, store: Store) -> None:
    assert "guessing" not in judged(store, labels, wrong(labels, right, classes), classes=classes).reasons


def test_labels_in_another_order_have_a_reason_of_their_own(store: Store) -> None:
    trust = judged(store, HUNDRED, [(label + 1) % 10 for label in HUNDRED])
    assert trust.reasons == "class_order; guessing"
    (said,) = (outcome for outcome in trust.outcomes if outcome.check == "class_order")
    assert said.sentence == (
        "100 of 100 images misclassified as they are labelled, though right in another order of the classes: 0 of 100 "
        "images are right as they are labelled and 100 if each label is read as its commonest prediction (0 as 1, 1 as "
        "2, 2 as 3 and 7 more)"
    )
