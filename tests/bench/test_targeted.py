"""The targeted criterion from the request to the row: evidence, distances and explanations included."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench.evidence.checks.other_losses import OtherLosses
from robustbench_bcos.bench.records import make_distances, make_records
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import DistanceRow, ResultRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import RequestError
from tests.bench.tiny_zoo import NAMES, carry_out, model_of, tiny_request

TARGETS = ("least_likely", "3")

every_target = pytest.mark.parametrize("target", TARGETS)


def targeted(zoo: Path, target: str, **flags: Any) -> Request:
    return tiny_request(zoo, criterion="targeted", target=target, **{"limit": 20, "eps": ("0.3",), **flags})


def goal_of(logits: torch.Tensor, label: int, target: str) -> int:
    """The class that an image is to be turned into."""
    if target != "least_likely":
        return int(target)
    return min((float(logit), place) for place, logit in enumerate(logits) if place != label)[1]


@every_target
@pytest.mark.parametrize("name", NAMES)
def test_verdicts_are_those_of_one_image_at_a_time(name: str, target: str, tiny_zoo: Path, store: Store) -> None:
    request = targeted(tiny_zoo, target, model=(name,), eps=("0.5",), batch_size=7)
    carry_out(request, store)
    (cell,) = request.cells
    model = model_of(request, name)
    clean, verdicts = store.clean(name), {row.image: row for row in store.verdicts(cell)}
    of_the_target, broken = set(), set()
    for place, index in enumerate(request.subset.indices):
        image, label, _ = request.subset.batch(place, place + 1)
        logits, row = model.classifier(image), verdicts[index]
        goal = goal_of(logits[0], int(label), target)
        assert clean[index].correct == bool(logits.argmax() == label)
        assert row.attacked == (clean[index].correct and goal != int(label))
        if clean[index].correct and goal == int(label):
            of_the_target.add(index)
        if not row.attacked:
            assert (row.success, row.forward_passes, row.prediction) == (False, 0, -1)
            continue
        attack = PGD(steps=3, loss=model.loss)
        found = attack(model.classifier, image, label, cell.threat, criterion=cell.criterion).adversarials
        reached = int(model.classifier(found).argmax())
        assert (row.success, row.prediction) == (reached == goal, reached)
        broken |= {index} if row.success else set()
    (record,) = make_records(store, request.identity).to_dict("records")
    correct = sum(row.correct for row in clean.values())
    assert (record["clean_correct"], record["robust_correct"]) == (correct, correct - len(broken))
    assert record["criterion"] == f"targeted:{target}"
    # Otherwise the comparison would be empty.
    assert 0 < len(broken) < correct
    assert bool(of_the_target) == (target == "3")


@pytest.mark.parametrize(("target", "names"), [("least_likely", NAMES[1:]), ("3", NAMES[1:])])
def test_evidence_distances_and_explanations_ask_for_the_same(
    target: str, names: tuple[str, ...], tiny_zoo: Path, store: Store
) -> None:
    asked: dict[str, Any] = {"evidence": "full", "distances": True, "explained": 4}
    request = targeted(tiny_zoo, target, model=names, eps=("0.6",), limit=8, **asked)
    carry_out(request, store)
    rows = make_records(store, request.identity).set_index("model")
    assert (rows["worst_correct"] <= rows["robust_correct"]).all()
    # Some check found what this weak attack did not: the comparison is not empty.
    assert (rows["worst_correct"] < rows["robust_correct"]).any()
    assert (rows["explained_images"] > 0).all()
    assert len(make_distances(store, request.identity)) == 8 * len(names)
    for cell in request.cells:
        robust = set(store.robust(cell))
        clean = store.clean(cell.model)
        distances = {row.image: row for row in store.select(DistanceRow, model=cell.model)}
        for row in store.verdicts(cell):
            if clean[row.image].correct and not row.attacked:
                # What counts as robust here is broken nowhere there, and nobody searches for it.
                assert (distances[row.image].high, distances[row.image].passes) == (None, 0)
        for result in store.select(ResultRow, subject=cell.key):
            if result.broken and result.part == "nearest":
                assert result.image in robust


def test_checks_that_do_not_serve_a_target_say_that_they_were_not_done(
    tiny_zoo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attacks(check: OtherLosses, attack: AbstractAttack, *, full: bool) -> list[AbstractAttack]:
        return [TargetedAPGD(steps=2)]

    monkeypatch.setattr(OtherLosses, "attacks", attacks)
    request = targeted(
        tiny_zoo, "3", limit=8, model=("tiny-natural",), attack=("pgd", "square"), queries=5, evidence="full"
    )
    carry_out(request, store)
    skipped = {
        cell.attack.name: {name: row.skipped_because for name, row in store.evidence(cell.key).items()}
        for cell in request.cells
    }
    for name in ("pgd", "square"):
        assert "chooses its own targets and cannot pursue targeted:3" in skipped[name]["other_losses"]
        assert skipped[name]["transfer"] == "there is no second model in this run"
        assert skipped[name]["black_box"] == ""
    assert "only the paths of apgd and pgd can be read" in skipped["square"].values()
    rows = make_records(store, request.identity).set_index("attack")
    assert rows["reasons"].str.contains("other_losses not done").all()
    assert (rows["worst_correct"] <= rows["robust_correct"]).all()


def test_each_class_is_a_target_in_a_row_of_its_own(tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, target="each", model=("tiny-natural",), limit=20, eps=("0.5",))
    assert [cell.criterion for cell in request.cells] == [f"targeted:{target}" for target in range(10)]
    carry_out(request, store)
    robust = make_records(store, request.identity).set_index("criterion")["robust_correct"]
    (single,) = tiny_request(tiny_zoo, target="3", model=("tiny-natural",), limit=20, eps=("0.5",)).cells
    with Store() as other:
        alone = targeted(tiny_zoo, "3", model=("tiny-natural",), eps=("0.5",))
        carry_out(alone, other)
        (record,) = make_records(other, alone.identity).to_dict("records")
    assert single in request.cells
    assert robust["targeted:3"] == record["robust_correct"]
    assert robust.nunique() > 1


@pytest.mark.parametrize("written", ["least_likely", "least-likely"])
def test_a_target_makes_the_criterion_targeted(written: str, tiny_zoo: Path) -> None:
    (cell,) = tiny_request(tiny_zoo, target=written, model=("tiny-natural",), limit=4).cells
    assert cell.criterion == "targeted:least_likely"


def test_distances_are_to_one_target(tiny_zoo: Path) -> None:
    with pytest.raises(RequestError, match="target each makes one of each class"):
        tiny_request(tiny_zoo, target="each", model=("tiny-natural",), limit=4, distances=True)
