"""The runner: verdicts of a plain loop, one image at a time, whatever the batches; and which images are attacked."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, Problem, Trace
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench import request as requests
from robustbench_bcos.bench.evaluation import evaluate
from robustbench_bcos.bench.judge import ThreatViolation
from robustbench_bcos.bench.models import ModelCache
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import (
    DigestRow,
    FooledPictureRow,
    FooledRow,
    Row,
    SmoothedRow,
    TimingRow,
    UnfinishedRow,
    VerdictRow,
    tables,
)
from robustbench_bcos.bench.runner import _attack, execute
from robustbench_bcos.bench.schedule import Schedule
from robustbench_bcos.bench.stages.distances import measure_distances
from robustbench_bcos.bench.stages.evidence import gather_evidence
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.model_zoo.models import Model, ZooModel
from tests.bench.tiny_zoo import NAMES, carry_out, measure, model_of, tiny_request, with_attack

EPSILONS = {"l1": "2", "l2": "0.3", "linf": "8/255"}

every_model = pytest.mark.parametrize("name", NAMES)
every_norm = pytest.mark.parametrize("norm", NORMS)


def verdicts(request: Request, store: Store, cell: int = 0) -> pd.DataFrame:
    """What was recorded of each image of a cell."""
    rows = pd.DataFrame([row.to_columns() for row in store.verdicts(request.cells[cell])])
    return rows[["image", "attacked", "success", "prediction", "forward_passes"]].set_index("image")


def one_by_one(request: Request, attack: AbstractAttack, *, encoded: bool = False) -> dict[int, tuple[bool, int]]:
    """Whether each image is classified correctly and stays so, and how often the attack asked the network.

    One image at a time, no runner, no judge.
    """
    (cell,) = request.cells
    classifier: Any = model_of(request, cell.model).classifier
    reference = {}
    for position, index in enumerate(request.subset.indices):
        image, label, _ = request.subset.batch(position, position + 1)
        reference[index] = (False, 0)
        if classifier(image).argmax() == label:
            network = classifier.network if encoded else classifier
            shown = classifier.encoding(image) if encoded else image
            rng = PerImageRng.of(request.config.seed, [index])
            adversarial, trace = attack(network, shown, label, cell.threat, rng=rng)
            reference[index] = (bool(network(adversarial).argmax() == label), int(trace.forward_passes))
    return reference


def agrees(request: Request, store: Store, reference: dict[int, tuple[bool, int]]) -> None:
    """Per image, and in the row's counts."""
    carry_out(request, store)
    found = verdicts(request, store)
    assert {
        index: (bool(row["attacked"]) and not row["success"], row["forward_passes"]) for index, row in found.iterrows()
    } == reference
    (record,) = make_records(store, request.identity).to_dict(orient="records")
    robust = sum(stays for stays, _ in reference.values())
    assert (record["robust_correct"], record["robust_accuracy"]) == (robust, robust / len(reference))
    # Otherwise the comparison would be empty.
    assert 0 < record["robust_correct"] < record["clean_correct"] < record["images"]


@dataclass(frozen=True, kw_only=True)
class Recorder(AbstractAttack):
    """An attack that hands every image back, as it is by default, and remembers what it was asked."""

    name = "recorder"

    propose: Callable[[Tensor], Tensor] = Tensor.clone
    asked: list[Problem] = field(default_factory=list, compare=False)
    options = {}

    @property
    def passes(self) -> int:
        return 0

    @property
    def images(self) -> list[int]:
        """Indices of the images that it was asked about."""
        return [index for problem in self.asked for index in problem.rng.indices]

    def _search(self, problem: Problem) -> AttackResult:
        self.asked.append(problem)
        return AttackResult(self.propose(problem.images), Trace.blank(problem.images))


# Against a plain loop


@every_norm
@every_model
def test_counts_are_those_of_a_plain_loop(name: str, norm: str, tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, model=(name,), norm=(norm,), eps=(EPSILONS[norm],), steps=(4,), batch_size=13)
    loss = {"tiny-natural": "ce", "tiny-bcos": "bce"}[name]
    agrees(request, store, one_by_one(request, PGD(steps=4, loss=loss)))


@pytest.mark.parametrize(
    ("flags", "attack"),
    [
        ({"start": "random", "restarts": (2,), "seed": 3}, PGD(steps=3, start="random", restarts=2)),
        ({"select": "last", "step_size": "0.2"}, PGD(steps=3, select="last", step_size=0.2)),
        ({"select": "best_loss", "loss": ("margin",)}, PGD(steps=3, select="best_loss", loss="margin")),
        ({"attack": ("noise",), "eps": ("3",), "restarts": (4,), "seed": 3}, Noise(restarts=4)),
    ],
)
def test_every_option_reaches_the_attack(flags: dict[str, Any], attack: Any, tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, **{"model": ("tiny-natural",), "eps": ("0.4",), **flags})
    agrees(request, store, one_by_one(request, attack))


def test_the_encoded_space_attacks_six_channels_and_says_so(tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, model=("tiny-bcos",), eps=("0.3",), space="encoded")
    agrees(request, store, one_by_one(request, PGD(steps=3, loss="bce"), encoded=True))
    assert make_records(store, request.identity)["space"].tolist() == ["encoded"]


@pytest.mark.parametrize(("space", "channels"), [("image", 3), ("encoded", 6)])
def test_the_encoded_space_is_another_threat_than_the_image(space: str, channels: int, tiny_zoo: Path) -> None:
    recorder = Recorder()
    measure(with_attack(tiny_request(tiny_zoo, model=("tiny-bcos",), space=space), recorder))
    assert {problem.images.shape[1] for problem in recorder.asked} == {channels}


# Batches


@pytest.mark.parametrize(
    "flags",
    [
        {"norm": ("l2", "linf"), "eps": ("0.03", "0.3")},
        {"attack": ("pgd", "noise"), "start": "random", "restarts": (2,), "eps": ("1",)},
        {"select": "last"},
    ],
)
def test_batches_of_another_size_give_the_same_rows(flags: dict[str, Any], tiny_zoo: Path) -> None:
    tables = [measure(tiny_request(tiny_zoo, **flags, batch_size=size)) for size in (7, 64)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_verdict_does_not_depend_on_the_other_images(tiny_zoo: Path) -> None:
    few, many = (tiny_request(tiny_zoo, model=("tiny-natural",), start="random", limit=limit) for limit in (11, 30))
    with Store() as one, Store() as other:
        carry_out(few, one)
        carry_out(many, other)
        alone, among = verdicts(few, one), verdicts(many, other)
    assert set(alone.index) < set(among.index)
    pd.testing.assert_frame_equal(alone, among.loc[alone.index])


def test_another_seed_draws_other_starts_and_the_same_seed_the_same(tiny_zoo: Path) -> None:
    flags: dict[str, Any] = {"model": ("tiny-natural",), "start": "random", "eps": ("0.5",)}
    deltas = [measure(tiny_request(tiny_zoo, **flags, seed=seed))["mean_perturbation"].item() for seed in (0, 0, 1)]
    assert deltas[0] == deltas[1] != deltas[2]


def test_more_restarts_never_leave_more_robust(tiny_zoo: Path) -> None:
    table = measure(tiny_request(tiny_zoo, restarts=(1, 2, 4), start="random", eps=("0.3",)))
    assert len(table) == 6
    for _, rows in table.groupby("model"):
        assert rows["restarts"].tolist() == [1, 2, 4]
        assert rows["robust_correct"].is_monotonic_decreasing


# Which images are attacked


def test_what_is_misclassified_without_an_attack_is_not_attacked_and_not_robust(tiny_zoo: Path, store: Store) -> None:
    recorder = Recorder()
    request = with_attack(tiny_request(tiny_zoo, model=("tiny-bcos",), batch_size=8), recorder)
    carry_out(request, store)
    wrong = [row.image for row in store.clean("tiny-bcos").values() if row.prediction != row.label]
    assert [row.image for row in store.clean("tiny-bcos").values() if not row.correct] == wrong
    assert 0 < len(wrong) < 30
    assert sorted(recorder.images) == sorted(set(request.subset.indices) - set(wrong))
    assert all((problem.outputs(problem.images).argmax(dim=1) == problem.goals).all() for problem in recorder.asked)
    found = verdicts(request, store).loc[wrong]
    assert not found[["attacked", "success"]].any(axis=None)
    assert (found["prediction"] == -1).all()
    assert (found["forward_passes"] == 0).all()
    # The attack did nothing, so that all that was correct is robust, and nothing else.
    assert make_records(store, request.identity)["robust_correct"].item() == 30 - len(wrong)


def test_a_batch_without_a_correct_image_is_not_attacked() -> None:
    recorder = Recorder()
    images = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 2, 1, 0, 0, 1])
    asked: dict[str, Any] = {"attack": recorder, "batch_size": 1, "evidence": "off"}
    (row,) = evaluate(Constant(), images, labels, "l2", 0.5, **asked).to_dict("records")
    assert [len(problem.images) for problem in recorder.asked] == [1, 1]
    assert (row["clean_correct"], row["robust_correct"], row["images"]) == (2, 2, 6)


def test_an_attack_is_not_believed_but_judged(tiny_zoo: Path, store: Store) -> None:
    def too_far(images: Tensor) -> Tensor:
        return (images + 0.25).clamp(max=1)

    asked = tiny_request(tiny_zoo, model=("tiny-natural",), norm=("linf",), eps=("8/255",), batch_size=4)
    request = with_attack(asked, Recorder(propose=too_far))
    (cell,) = request.cells
    first = request.subset.indices[0]
    with pytest.raises(ThreatViolation, match=rf"^{cell.key}: the adversarial example for image {first} exceeds"):
        carry_out(request, store)
    assert store.done(cell) == set()


# What rows say


def test_the_loss_that_auto_meant_is_in_the_row_and_in_the_attack(tiny_zoo: Path) -> None:
    tables = {loss: measure(tiny_request(tiny_zoo, limit=9, loss=(loss,))) for loss in ("auto", "ce", "bce", "dlr")}
    own = dict(zip(tables["auto"]["model"], tables["auto"]["loss"], strict=True))
    assert own == {"tiny-natural": "ce", "tiny-bcos": "bce"}
    for name, loss in own.items():
        rows = [tables[given].set_index("model").loc[name] for given in ("auto", loss)]
        pd.testing.assert_series_equal(*rows)
    assert set(tables["dlr"]["loss"]) == {"dlr"}


class Constant(nn.Module):
    """Class 0 of three, whatever is shown."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_tensor([3.0, 2.0, 1.0]).expand(len(images), 3) + 0 * images.sum()


class Faltering(nn.Module):
    """Class 0 of three for black images, and not a number for all others."""

    def forward(self, images: Tensor) -> Tensor:
        black = (images == 0).flatten(1).all(dim=1, keepdim=True)
        return torch.where(black, images.new_tensor([3.0, 2.0, 1.0]) + images.sum(), torch.nan)


def test_an_attack_without_a_gradient_is_seen_in_the_row() -> None:
    images = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    (row,) = evaluate(Constant(), images, torch.zeros(5, dtype=torch.long), "l2", 0.5).to_dict("records")
    assert (row["robust_correct"], row["degenerate_gradient_share"]) == (5, 1.0)


@pytest.mark.filterwarnings("ignore:Images. :UserWarning")  # All are black.
def test_logits_that_are_no_numbers_are_not_robust() -> None:
    (row,) = evaluate(Faltering(), torch.zeros(4, 3, 4, 6), torch.zeros(4, dtype=torch.long), "linf", 0.1).to_dict(
        "records"
    )
    assert (row["clean_correct"], row["robust_correct"]) == (4, 0)


def test_passes_are_counted_image_by_image(tiny_zoo: Path) -> None:
    table = measure(tiny_request(tiny_zoo, model=("tiny-natural",), eps=("0", "5"), select="last"))
    correct = table["clean_correct"]
    assert (table["forward_passes"] == 4 * correct).all()
    assert (table["backward_passes"] == 3 * correct).all()
    assert table["robust_correct"].tolist() == [correct[0], 0]


# Going on


def test_what_is_in_the_store_is_not_measured_again(tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, model=("tiny-natural",), eps=("0.1", "0.3"), batch_size=2)
    steps = execute(request, store)
    attacked = 0
    while attacked < 30 + 16:
        attacked += next(steps).images
    steps.close()
    # Four batches at a time.
    assert [len(store.done(cell)) for cell in request.cells] == [30, 16]
    steps = list(execute(request, store))
    assert [step.images for step in steps if step.images] == 2 * [8, 8, 8, 6]
    written = [row for step in steps for row in step.rows if isinstance(row, VerdictRow)]
    assert {row.image for row in written} == set(request.subset.indices[16:])
    assert {row.cell for row in written} == {request.cells[1].key}


@pytest.mark.parametrize(
    "flags", [{"explained": 5}, {"evidence": "quick"}, {"distances": True}], ids=lambda flags: next(iter(flags))
)
def test_a_finished_run_loads_no_model(flags: dict[str, Any], tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, limit=6, **flags)
    carry_out(request, store)

    def refuse(model: Model) -> Model:
        raise AssertionError(f"{model.name} was loaded")

    again = replace(request, models=ModelCache(refuse))
    assert sum(step.images for step in execute(again, store)) == Schedule(request=request).work
    with pytest.raises(AssertionError, match="was loaded"), Store() as empty:
        carry_out(again, empty)


def test_each_model_is_loaded_once_and_copied_once(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many stages, cells and threads there are, the check of the request included."""
    counts: dict[str, list[str]] = {"loaded": [], "copied": []}
    load, copy = ZooModel.load, requests.make_fast_copy

    def loading(source: ZooModel) -> Model:
        counts["loaded"].append(source.name)
        return load(source)

    def copying(model: Model, **how: Any) -> Model:
        counts["copied"].append(model.name)
        return copy(model, **how)

    monkeypatch.setattr(ZooModel, "load", loading)
    monkeypatch.setattr(requests, "make_fast_copy", copying)
    asked: dict[str, Any] = {"eps": ("0.1", "0.3"), "evidence": "quick", "distances": True, "explained": 3}
    measure(tiny_request(tiny_zoo, limit=4, jobs=2, **asked))
    assert counts == {"loaded": list(NAMES), "copied": list(NAMES)}


def test_half_a_batch_of_another_size_is_taken_over(tiny_zoo: Path, store: Store) -> None:
    # A run that was stopped may be continued with batches of another size, whose borders lie elsewhere.
    steps = execute(tiny_request(tiny_zoo, batch_size=8), store)
    while next(steps).images == 0:
        pass
    steps.close()
    request = tiny_request(tiny_zoo, batch_size=12)
    carry_out(request, store)
    columns = ["clean_correct", "robust_correct", "forward_passes"]
    pd.testing.assert_frame_equal(make_records(store, request.identity)[columns], measure(request)[columns])


class ReadOnly(Store):
    """A store that takes no rows."""

    def add(self, *rows: Row) -> None:
        raise AssertionError(f"a stage writes {len(rows)} rows")


def test_stages_read_and_only_the_runner_writes(tiny_zoo: Path, tmp_path: Path, store: Store) -> None:
    asked: dict[str, Any] = {"eps": ("0.3",), "evidence": "quick", "distances": True, "explained": 3}
    request = tiny_request(tiny_zoo, limit=4, **asked)
    carry_out(request, store)
    file = tmp_path / "run.sqlite"
    # Nothing is left unfinished by a run that ended, no explanation was attacked, and no network smoothed.
    empty = UnfinishedRow, FooledRow, FooledPictureRow, SmoothedRow
    with Store(file) as written, ReadOnly(file) as known:
        for stage in (_attack, gather_evidence, measure_distances):
            for source in request.sources:
                model = request.models.get(source)
                for progress in stage(request, model, request.cells_of(source), known, request.batch_size(model)):
                    written.add(*progress.rows)
        for table in tables():
            if table is not TimingRow:
                # Times differ from run to run, and so do their digests.
                mine, whole = (
                    [row for row in each.select(table) if not (isinstance(row, DigestRow) and row.of == "timings")]
                    for each in (written, store)
                )
                assert mine == whole
                assert bool(written.select(table)) == (table not in empty)
