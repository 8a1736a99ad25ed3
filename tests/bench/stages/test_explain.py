"""What is explained of a run: every image, comparison and class, as if each were alone; and nothing twice."""

import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import robustbench_bcos
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, Problem, Trace
from robustbench_bcos.attacks.halts import Steps
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench.judge import ThreatViolation
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.records import SIMILARITY_COLUMNS, make_records, make_similarities
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import COMPARISONS, EXPLAINED_CLASSES, SimilarityRow
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.schedule import Schedule
from robustbench_bcos.bench.similarity import noise_of_size
from robustbench_bcos.bench.stages import explain as explaining
from robustbench_bcos.bench.stages.explain import PICTURES, others_of_class
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.bench.trial import Judged, search_and_judge
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.explanations.similarity import MEASURES
from tests.bench.tiny_zoo import carry_out, measure, model_of, tiny_request, with_attack

Point = tuple[int, str, str]
"""Image, comparison, class."""

POINT = ["cell", "image", "comparison", "explained_class"]

# Maps are float32, and a convolution sums in another order in another batch.
ROUNDING: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def similarities(request: Request, store: Store) -> pd.DataFrame:
    carry_out(request, store)
    return make_similarities(store, request.identity)


def recorded(request: Request, store: Store) -> dict[Point, tuple[bool, list[float | None]]]:
    carry_out(request, store)
    rows = [row for cell in request.cells for row in store.select(SimilarityRow, cell=cell.key)]
    found = {(row.image, row.comparison, row.explained_class): (row.changed, list(row.values.values())) for row in rows}
    assert len(found) == len(rows)
    return found


def pictured(request: Request, store: Store) -> dict[str, dict[int, bool]]:
    """Images pictured of each cell, and whether they were broken."""
    return {cell.key: {row.picture.image: row.broken for row in store.pictures(cell)} for cell in request.cells}


def explained(request: Request) -> tuple[int, ...]:
    """Images explained, in that order."""
    assert request.explained is not None
    return request.explained.indices


def explains(progress: Progress) -> bool:
    return any(isinstance(row, SimilarityRow) for row in progress.rows)


def explained_up_to(request: Request, store: Store, batches: int) -> None:
    """Stop the run when so many batches have been explained."""
    steps = execute(request, store)
    while batches:
        batches -= explains(next(steps))
    steps.close()


# Against one image at a time


def one_by_one(request: Request, attack: AbstractAttack) -> dict[Point, tuple[bool, list[float | None]]]:
    """One image at a time, with the public function and the measures alone."""
    (cell,) = request.cells
    classifier: Any = model_of(request, cell.model).classifier
    encoded = cell.space == "encoded"
    network = classifier.network if encoded else classifier
    dataset, indices = request.subset.dataset, explained(request)

    def shown(index: int) -> Tensor:
        image = dataset.read(index)[None]
        return classifier.encoding(image) if encoded else image

    def maps(image: Tensor, label: Tensor, index: int) -> tuple[int, dict[str, Tensor]]:
        rng, method = PerImageRng.of(request.config.seed, [index]), request.config.explanation
        true = robustbench_bcos.explain(network, image, label, method, rng=rng)
        predicted = robustbench_bcos.explain(network, image, None, method, rng=rng)
        return int(predicted.targets), {"true": true.contributions, "predicted": predicted.contributions}

    found: dict[Point, tuple[bool, list[float | None]]] = {}
    for index in indices:
        image, label = shown(index), torch.tensor([dataset.labels[index]])
        rng = PerImageRng.of(request.config.seed, [index])
        attacked = attack(network, image, label, cell.threat, rng=rng).adversarials
        noisy = noise_of_size(image, cell.threat.size(attacked - image), cell.threat, rng)
        same = [other for other in indices if dataset.labels[other] == dataset.labels[index]]
        other = (2 * same)[same.index(index) + 1]
        before, clean = maps(image, label, index)
        against = {"attack": (attacked, index), "noise": (noisy, index), "other": (shown(other), other)}
        for comparison, (adversarial, number) in against.items():
            after, theirs = maps(adversarial, label, number)
            alone = comparison == "other" and other == index
            for explained_class in ("true", "predicted"):
                pair = (clean[explained_class], theirs[explained_class])
                values: list[float | None] = [None if alone else float(MEASURES[name](*pair)) for name in MEASURES]
                found[index, comparison, explained_class] = (after != before, values)
    return found


@pytest.mark.parametrize(
    ("flags", "attack"),
    [
        ({"model": ("tiny-bcos",)}, PGD(steps=3, loss="bce", select="best_loss")),
        ({"norm": ("linf",), "eps": ("8/255",), "select": "last"}, PGD(steps=3, select="best_loss")),
        ({"start": "random", "loss": ("margin",), "seed": 3, "explained": 4},
         PGD(steps=3, start="random", loss="margin", select="best_loss")),
        ({"restarts": (2,), "eps": ("0.2",), "explained": 4}, PGD(steps=3, restarts=2, select="best_loss")),
        ({"attack": ("noise",), "restarts": (2,), "eps": ("3",), "explained": 4}, Noise(restarts=2)),
        ({"model": ("tiny-bcos",), "space": "encoded", "explained": 4}, PGD(steps=3, loss="bce", select="best_loss")),
        ({"explanation": "integrated_gradients", "explained": 2}, PGD(steps=3, select="best_loss")),
        ({"explanation": "lime", "explained": 1}, PGD(steps=3, select="best_loss")),
    ],
    ids=["b-cos", "linf", "random start", "restarts", "noise", "encoded", "integrated gradients", "lime"],
)  # fmt: skip
def test_rows_are_those_of_one_image_at_a_time(
    flags: dict[str, Any], attack: Any, tiny_zoo: Path, store: Store
) -> None:
    request = tiny_request(
        tiny_zoo, **{"model": ("tiny-natural",), "limit": 12, "explained": 12, "batch_size": 5, **flags}
    )
    found, expected = recorded(request, store), one_by_one(request, attack)
    assert found.keys() == expected.keys()
    assert set(found) == set(itertools.product(explained(request), COMPARISONS, EXPLAINED_CLASSES))
    for point, (changed, values) in expected.items():
        assert found[point][0] == changed, point
        measured, alone = np.array(found[point][1], dtype=float), np.array(values, dtype=float)
        # Half a unit of the fourth digit, and what batches round.
        np.testing.assert_allclose(measured, alone, rtol=5.01e-4 + 1e-4, atol=1e-5, err_msg=str(point))


def test_every_model_and_cell_is_explained_by_its_own_method(tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, norm=("l2", "linf"), eps=("0.1",), explained=3)
    carry_out(request, store)
    assert all(store.explained(cell) == set(request.subset.indices[:3]) for cell in request.cells)
    assert all(store.seconds(cell, "explanation") > 0 for cell in request.cells)
    table = make_records(store, request.identity)
    assert dict(zip(table["model"], table["explanation"], strict=True)) == {
        "tiny-natural": "input_x_gradient",
        "tiny-bcos": "dynamic_weights",
    }
    assert table[["model", "b"]].dropna().to_numpy().tolist() == 2 * [["tiny-bcos", 2.0]]


def test_without_explanations_columns_are_there_and_empty(tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, limit=4)
    assert similarities(request, store).empty
    table = make_records(store, request.identity)
    assert set(table["explanation"]) == {""}
    assert set(table["explained_images"]) == {0}
    shares = [f"explanation_changed_{comparison}" for comparison in COMPARISONS]
    assert table[[*shares, *SIMILARITY_COLUMNS]].isna().all(axis=None)


# Batches


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        ({"norm": ("l2", "linf"), "eps": ("0.3",)}, (7, 64)),
        ({"attack": ("noise", "pgd"), "start": "random", "eps": ("1",), "model": ("tiny-natural",)}, (1, 4)),
    ],
)
def test_batches_of_another_size_give_the_same_rows(
    flags: dict[str, Any], sizes: tuple[int, int], tiny_zoo: Path
) -> None:
    tables = []
    for size in sizes:
        with Store() as store:
            tables.append(similarities(tiny_request(tiny_zoo, explained=13, limit=13, batch_size=size, **flags), store))
    exact = [*POINT, "changed", "counted"]
    pd.testing.assert_frame_equal(*(table[exact] for table in tables))
    # The fourth digit of what is at an edge may be another one.
    pd.testing.assert_frame_equal(*(table[list(MEASURES)] for table in tables), rtol=2e-3, atol=1e-4)


def test_batches_of_another_size_give_the_same_pictures(tiny_zoo: Path) -> None:
    kept = []
    for size in (4, 30):
        request = tiny_request(tiny_zoo, model=("tiny-bcos",), explained=30, eps=("0.3",), batch_size=size)
        with Store() as store:
            carry_out(request, store)
            kept.append([row for cell in request.cells for row in store.pictures(cell)])
    for one, other in zip(*kept, strict=True):
        assert (one.cell, one.picture.image, one.picture.label, one.broken) == (
            other.cell,
            other.picture.image,
            other.picture.label,
            other.broken,
        )
        assert one.picture.attacked is not None
        assert other.picture.attacked is not None
        for view, theirs in ((one.picture.clean, other.picture.clean), (one.picture.attacked, other.picture.attacked)):
            assert view.prediction == theirs.prediction
            np.testing.assert_allclose(view.pixels, theirs.pixels, **ROUNDING)
            np.testing.assert_allclose(view.contributions, theirs.contributions, **ROUNDING)
            assert view.confidence == pytest.approx(theirs.confidence, rel=1e-4)


def test_another_seed_draws_other_noise_and_nothing_else(tiny_zoo: Path) -> None:
    tables = []
    for seed in (0, 0, 1):
        with Store() as store:
            tables.append(similarities(tiny_request(tiny_zoo, model=("tiny-natural",), explained=5, seed=seed), store))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    differs = tables[0]["cosine"] != tables[2]["cosine"]
    assert set(tables[0].loc[differs & tables[0]["cosine"].notna(), "comparison"]) == {"noise"}


# The other image


def subset_of(labels: list[int], indices: tuple[int, ...]) -> EvalSubset:
    return EvalSubset(InMemory(torch.zeros(len(labels), 3, 2, 4), torch.tensor(labels), classes=4), indices)


@pytest.mark.parametrize(
    ("labels", "indices", "others"),
    [
        ([0, 1, 2, 0, 1, 2], (0, 1, 2, 3, 4, 5), (3, 4, 5, 0, 1, 2)),
        ([0, 0, 0, 0], (2, 0, 3), (0, 3, 2)),
        ([0, 1, 2, 0], (3, 2), (3, 2)),
        ([3, 1, 3, 3], (3, 1, 0), (0, 1, 3)),
    ],
)
def test_the_other_image_is_the_next_of_the_class_among_those_explained(
    labels: list[int], indices: tuple[int, ...], others: tuple[int, ...]
) -> None:
    assert others_of_class(subset_of(labels, indices)).indices == others


def test_an_image_alone_in_its_class_is_compared_with_nothing(tiny_zoo: Path, store: Store) -> None:
    # Digits in balanced order: of twelve, 0 and 1 are there twice.
    request = tiny_request(tiny_zoo, model=("tiny-natural",), explained=12)
    rows = similarities(request, store).set_index("image")
    labels = {index: request.subset.dataset.labels[index] for index in request.subset.indices}
    alone = [index for index in rows.index.unique() if labels[index] > 1]
    assert len(alone) == 8
    others = rows[rows["comparison"] == "other"]
    assert others.loc[alone, list(MEASURES)].isna().all(axis=None)
    assert others.drop(index=alone)[list(MEASURES)].notna().all(axis=None)
    assert rows.loc[rows["comparison"] != "other", list(MEASURES)].notna().all(axis=None)


def test_a_share_of_other_images_is_of_those_that_have_one(tiny_zoo: Path) -> None:
    shares = [
        measure(tiny_request(tiny_zoo, model=("tiny-bcos",), explained=count))["explanation_changed_other"].item()
        for count in (5, 30)
    ]
    assert 0 < shares[1] < 1
    # The first five digits are of five classes.
    assert pd.isna(shares[0])


# Pictures


@pytest.mark.parametrize("asked", [0, 9])
def test_the_first_images_are_pictured_or_those_asked_for_and_the_first_that_are_broken_and_robust(
    asked: int, tiny_zoo: Path, store: Store
) -> None:
    chosen = tiny_request(tiny_zoo).subset.indices
    flags: dict[str, Any] = {"model": ("tiny-natural",), "eps": ("0.02", "0.3", "3"), "images": chosen[30 - asked :]}
    request = tiny_request(tiny_zoo, explained=30, batch_size=7, **flags)
    table = similarities(request, store)
    clean = store.clean("tiny-natural")
    always = {*chosen[-asked:]} if asked else {*chosen[:PICTURES]}
    counts = []
    for cell in request.cells:
        rows = table[(table["cell"] == cell.key) & (table["comparison"] == "attack")].set_index("image")
        moved = rows.loc[rows["explained_class"] == "true", "changed"].to_dict()
        correct = [index for index in explained(request) if clean[index].correct]
        broken = [index for index in correct if moved[index]]
        robust = [index for index in correct if not moved[index]]
        kept = {row.picture.image: row.broken for row in store.pictures(cell)}
        assert set(kept) == {*always, *broken[:PICTURES], *robust[:PICTURES]}
        assert all(down == (index in broken) for index, down in kept.items())
        counts.append(len(broken))
    # Attacks that break few images, and one that breaks nearly all.
    assert min(counts) < PICTURES < max(counts)


def test_a_picture_is_of_the_image_and_of_the_full_attack(tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, model=("tiny-bcos",), explained=4)
    carry_out(request, store)
    classifier = model_of(request, "tiny-bcos").classifier
    attack = PGD(steps=3, loss="bce", select="best_loss")
    rows = store.pictures(request.cells[0])
    assert [row.picture.image for row in rows] == sorted(request.subset.indices[:4])
    for row in rows:
        image, label = request.subset.dataset.read(row.picture.image)[None], torch.tensor([row.picture.label])
        adversarial = attack(classifier, image, label, "l2", 0.5).adversarials
        assert row.picture.attacked is not None
        for view, shown in ((row.picture.clean, image), (row.picture.attacked, adversarial)):
            np.testing.assert_allclose(view.pixels, shown[0].numpy(), **ROUNDING)
            expected = robustbench_bcos.explain(classifier, shown)
            assert view.prediction == int(expected.targets)
            np.testing.assert_allclose(view.contributions, expected.contributions[0].numpy(), **ROUNDING)
            assert view.confidence == pytest.approx(expected.logits.sigmoid().max().item(), rel=1e-4)
        correct = row.picture.clean.prediction == row.picture.label
        assert row.broken == (correct and row.picture.attacked.prediction != row.picture.label)


@dataclass(frozen=True, kw_only=True)
class TooFarInFull(AbstractAttack):
    """Leaves images as they are, and in full moves them too far."""

    name = "too_far"

    change: float = 0.0

    @property
    def passes(self) -> int:
        return 0

    def in_full(self) -> "TooFarInFull":
        return TooFarInFull(change=0.3)

    def _search(self, problem: Problem) -> AttackResult:
        return AttackResult((problem.images + self.change).clamp(max=1), Trace.blank(problem.images))


def test_what_is_explained_is_judged_too(tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, model=("tiny-natural",), norm=("linf",), eps=("8/255",), explained=4)
    request = with_attack(request, TooFarInFull())
    first = request.subset.indices[0]
    with pytest.raises(ThreatViolation, match=rf" too_far .*: the adversarial example for image {first} exceeds linf"):
        carry_out(request, store)
    assert len(store.done(request.cells[0])) == 30


# Going on


def test_what_is_explained_is_not_explained_again(
    tiny_zoo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: dict[str, Any] = {"model": ("tiny-natural",), "eps": ("0.1", "0.3"), "explained": 10, "batch_size": 4}
    request = tiny_request(tiny_zoo, **flags)
    explained_up_to(request, store, 3)
    assert [len(store.explained(cell)) for cell in request.cells] == [8, 4]
    asked = []

    def spy(attack: AbstractAttack, target: AttackTarget, **named: Any) -> Steps[Judged]:
        asked.append((target.threat.text, len(target.images)))
        return search_and_judge(attack, target, **named)

    monkeypatch.setattr(explaining, "search_and_judge", spy)
    steps = list(execute(request, store))
    assert asked == [("0.3", 4), ("0.1", 2), ("0.3", 2)]
    assert sum(step.images for step in steps) == Schedule(request=request).work == 2 * (30 + 10)
    assert [step.images for step in steps if explains(step)] == [4, 2, 2]


@pytest.mark.parametrize(("first", "then"), [(6, 9), (9, 6), (3, 30)])
def test_batches_of_another_size_may_finish_what_was_begun(first: int, then: int, tiny_zoo: Path, store: Store) -> None:
    flags: dict[str, Any] = {"model": ("tiny-natural",), "explained": 30, "eps": ("0.3",)}
    for batches in (1, 3):
        explained_up_to(tiny_request(tiny_zoo, **flags, batch_size=first), store, batches)
    request = tiny_request(tiny_zoo, **flags, batch_size=then)
    table = similarities(request, store)
    with Store() as untouched:
        expected = similarities(request, untouched)
        assert pictured(request, store) == pictured(request, untouched)
    pd.testing.assert_frame_equal(table[POINT], expected[POINT])
    pd.testing.assert_frame_equal(table, expected, **ROUNDING)


# Means


@pytest.mark.parametrize("name", ["tiny-natural", "tiny-bcos"])
def test_means_are_those_of_the_rows_that_count(name: str, tiny_zoo: Path, store: Store) -> None:
    chosen = tiny_request(tiny_zoo, limit=30).subset.indices
    flags: dict[str, Any] = {"explained": 20, "images": chosen[-2:], "norm": ("l2", "linf"), "eps": ("0.05",)}
    request = tiny_request(tiny_zoo, model=(name,), **flags)
    text = similarities(request, store).to_csv(index=False)
    rows = pd.read_csv(io.StringIO(text))
    clean = store.clean(name)
    correct = {index for index in chosen[:20] if clean[index].prediction == clean[index].label}
    assert set(rows["image"]) == {*chosen[:20], *chosen[-2:]}
    assert set(rows.loc[rows["counted"] == 1, "image"]) == correct
    assert 0 < len(correct) < 20
    counted = rows[rows["counted"] == 1].groupby(POINT[:1] + POINT[2:])
    means = counted[["changed", *MEASURES]].mean()
    records = make_records(store, request.identity)
    assert set(records["explained_images"]) == {len(correct)}
    for cell, (_, record) in zip(request.cells, records.iterrows(), strict=True):
        for comparison in COMPARISONS:
            share = means.loc[(cell.key, comparison, "true"), "changed"]
            assert record[f"explanation_changed_{comparison}"] == pytest.approx(share, rel=1e-12)
            for explained_class, name_of_measure in itertools.product(EXPLAINED_CLASSES, MEASURES):
                found = record[f"explanation_{name_of_measure}_{explained_class}_{comparison}"]
                expected = means.loc[(cell.key, comparison, explained_class), name_of_measure]
                assert found == float(f"{found:.4g}")
                assert found == pytest.approx(expected, rel=5.01e-4)  # half a unit of the fourth digit


def test_more_images_are_explained_than_there_are(tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, model=("tiny-natural",), limit=4, explained=1000)
    assert set(similarities(request, store)["image"]) == set(request.subset.indices)


def test_pictured_images_alone_count_for_nothing(tiny_zoo: Path) -> None:
    (index,) = tiny_request(tiny_zoo, limit=1).subset.indices
    table = measure(tiny_request(tiny_zoo, model=("tiny-natural",), limit=4, images=(index,)))
    assert table["explained_images"].item() == 0
    assert table[list(SIMILARITY_COLUMNS)].isna().all(axis=None)
