"""The runner: verdicts of a plain loop, one image at a time, whatever the batches; and who is attacked at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import LOSSES, NORMS
from robustbench_bcos.attacks.attack import AttackResult, Trace
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench import attacking
from robustbench_bcos.bench.evaluation import evaluate
from robustbench_bcos.bench.judge import ThreatViolation
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.model_zoo.models import Model, ZooModel
from tests.bench.tiny_zoo import NAMES, carry_out, measure, tiny_request

EPSILONS = {"l2": "0.3", "linf": "8/255"}

every_model = pytest.mark.parametrize("name", NAMES)
every_norm = pytest.mark.parametrize("norm", NORMS)


def verdicts(request: Request, store: Store, cell: int = 0) -> pd.DataFrame:
    """What was recorded of each image of a cell."""
    columns = ["image", "attacked", "prediction", "forward_passes"]
    query = f"SELECT {', '.join(columns)} FROM verdicts WHERE cell = ?"
    rows = store._database.execute(query, (request.cells[cell].key,)).fetchall()
    return pd.DataFrame(rows, columns=columns).set_index("image")


def one_by_one(request: Request, attack: Any, *, encoded: bool = False) -> dict[int, tuple[bool, int]]:
    """Whether each image is classified correctly and stays so, and how often the attack asked the network.

    One image at a time, no runner, no judge.
    """
    (cell,) = request.cells
    classifier: Any = model_of(request, cell.model).classifier
    ball, epsilon = cell.threat
    reference = {}
    for position, index in enumerate(request.subset.indices):
        image, label, _ = request.subset.batch(position, position + 1)
        reference[index] = (False, 0)
        if classifier(image).argmax() == label:
            network = classifier.network if encoded else classifier
            shown = classifier.encoding(image) if encoded else image
            noise = PerImageRng.of(request.config.seed, [index])
            adversarial, trace = attack(network, shown, label, ball, epsilon, noise)
            reference[index] = (bool(network(adversarial).argmax() == label), int(trace.forward_passes))
    return reference


def agrees(request: Request, store: Store, reference: dict[int, tuple[bool, int]]) -> None:
    """Per image, and in the row's counts."""
    carry_out(request, store)
    clean = store.clean(request.cells[0].model)
    found = verdicts(request, store)
    assert {
        index: (bool(row["attacked"]) and row["prediction"] == clean[index].label, row["forward_passes"])
        for index, row in found.iterrows()
    } == reference
    (record,) = make_records(store, request.identity).to_dict(orient="records")
    robust = sum(stays for stays, _ in reference.values())
    assert (record["robust_correct"], record["robust_accuracy"]) == (robust, robust / len(reference))
    # Otherwise the comparison would be empty.
    assert 0 < record["robust_correct"] < record["clean_correct"] < record["images"]


class Recorder:
    """An attack that hands every image back as it is, and remembers what it was asked."""

    def __init__(self, propose: Callable[[Tensor], Tensor] = Tensor.clone) -> None:
        self.propose = propose
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any) -> AttackResult:
        self.asked.append(arguments)
        return AttackResult(self.propose(arguments[1]), Trace.blank(arguments[1]))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "Recorder":
        monkeypatch.setattr(attacking, "build_attack", lambda cell, loss, width: self)
        return self


# Against a plain loop


@every_norm
@every_model
def test_counts_are_those_of_a_plain_loop(name: str, norm: str, tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, model=(name,), norm=(norm,), eps=(EPSILONS[norm],), steps=(4,), batch_size=13)
    loss = {"tiny-natural": "ce", "tiny-bcos": "bce"}[name]
    agrees(request, store, one_by_one(request, PGD(steps=4, loss=LOSSES[loss])))


@pytest.mark.parametrize(
    ("flags", "attack"),
    [
        ({"start": "random", "restarts": (2,), "seed": 3}, PGD(steps=3, start="random", restarts=2)),
        ({"select": "last", "step_size": "0.2"}, PGD(steps=3, select="last", step_size=0.2)),
        ({"select": "best_loss", "loss": ("margin",)}, PGD(steps=3, select="best_loss", loss=LOSSES["margin"])),
        ({"attack": ("noise",), "eps": ("3",), "restarts": (4,), "seed": 3}, Noise(restarts=4)),
    ],
)
def test_every_option_reaches_the_attack(flags: dict[str, Any], attack: Any, tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, **{"model": ("tiny-natural",), "eps": ("0.4",), **flags})
    agrees(request, store, one_by_one(request, attack))


def test_the_encoded_space_attacks_six_channels_and_says_so(tiny_zoo: Path, store: Store) -> None:
    request = tiny_request(tiny_zoo, model=("tiny-bcos",), eps=("0.3",), space="encoded")
    agrees(request, store, one_by_one(request, PGD(steps=3, loss=LOSSES["bce"]), encoded=True))
    assert make_records(store, request.identity)["space"].tolist() == ["encoded"]


def test_the_encoded_space_is_another_threat_than_the_image(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for space, channels in {"image": 3, "encoded": 6}.items():
        recorder = Recorder().install(monkeypatch)
        measure(tiny_request(tiny_zoo, model=("tiny-bcos",), space=space))
        assert {asked[1].shape[1] for asked in recorder.asked} == {channels}


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


# Who is attacked


def test_what_is_misclassified_anyway_is_not_attacked_and_not_robust(
    tiny_zoo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder().install(monkeypatch)
    request = tiny_request(tiny_zoo, model=("tiny-bcos",), batch_size=8)
    carry_out(request, store)
    wrong = [row.image for row in store.clean("tiny-bcos").values() if row.prediction != row.label]
    assert 0 < len(wrong) < 30
    asked = [index for *_, noise in recorder.asked for index in noise.indices]
    assert sorted(asked) == sorted(set(request.subset.indices) - set(wrong))
    assert all((network(images).argmax(dim=1) == labels).all() for network, images, labels, *_ in recorder.asked)
    found = verdicts(request, store).loc[wrong]
    assert (found["attacked"] == 0).all()
    assert (found["prediction"] == -1).all()
    assert (found["forward_passes"] == 0).all()
    # The attack did nothing, so that all that was correct is robust, and nothing else.
    assert make_records(store, request.identity)["robust_correct"].item() == 30 - len(wrong)


def test_a_batch_without_a_correct_image_is_not_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder().install(monkeypatch)
    images = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 2, 1, 0, 0, 1])
    (row,) = evaluate(Constant(), images, labels, "l2", 0.5, select="last", batch_size=1).to_dict("records")
    assert [len(asked[1]) for asked in recorder.asked] == [1, 1]
    assert (row["clean_correct"], row["robust_correct"], row["images"]) == (2, 2, 6)


def test_an_attack_is_not_believed_but_judged(tiny_zoo: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_far(images: Tensor) -> Tensor:
        return (images + 0.25).clamp(max=1)

    Recorder(too_far).install(monkeypatch)
    request = tiny_request(tiny_zoo, model=("tiny-natural",), norm=("linf",), eps=("8/255",), batch_size=4)
    key = request.cells[0].key
    with pytest.raises(
        ThreatViolation, match=rf"^{key}: the adversarial for image {request.subset.indices[0]} exceeds"
    ):
        carry_out(request, store)
    assert store.done(request.cells[0]) == set()


# What rows say


def test_the_loss_that_auto_meant_is_in_the_row_and_in_the_attack(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, asked = attacking.build_attack, []

    def spy(cell: Any, loss: str, width: int) -> Any:
        attack = build(cell, loss, width)
        asked.append((cell.model, getattr(attack, "loss", None)))
        return attack

    monkeypatch.setattr(attacking, "build_attack", spy)
    table = measure(tiny_request(tiny_zoo, limit=5))
    assert dict(zip(table["model"], table["loss"], strict=True)) == {"tiny-natural": "ce", "tiny-bcos": "bce"}
    assert asked == [("tiny-natural", LOSSES["ce"]), ("tiny-bcos", LOSSES["bce"])]
    assert set(measure(tiny_request(tiny_zoo, limit=5, loss=("dlr",)))["loss"]) == {"dlr"}


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


def test_what_is_in_the_store_is_not_measured_again(
    tiny_zoo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tiny_request(tiny_zoo, model=("tiny-natural",), eps=("0.1", "0.3"), batch_size=2)
    steps = execute(request, store)
    for _ in range(6):
        next(steps)
    steps.close()
    # Four batches at a time.
    assert [len(store.done(cell)) for cell in request.cells] == [30, 16]
    recorder = Recorder().install(monkeypatch)
    assert [step.images for step in execute(request, store)] == 2 * [8, 8, 8, 6]
    rest = request.subset.indices[16:]
    assert {index for *_, noise in recorder.asked for index in noise.indices} <= set(rest)
    assert {epsilon for _, _, _, _, epsilon, _ in recorder.asked} == {0.3}


def test_a_finished_run_loads_no_model(tiny_zoo: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    request = tiny_request(tiny_zoo, batch_size=64)
    carry_out(request, store)

    def load(self: ZooModel) -> Model:
        raise AssertionError(f"{self.name} was loaded")

    monkeypatch.setattr(ZooModel, "load", load)
    assert [step.images for step in execute(request, store)] == [30, 30]


def test_half_a_batch_of_another_size_is_taken_over(tiny_zoo: Path, store: Store) -> None:
    # A run that was stopped may be continued with batches of another size, whose borders lie elsewhere.
    steps = execute(tiny_request(tiny_zoo, batch_size=8), store)
    next(steps)
    steps.close()
    request = tiny_request(tiny_zoo, batch_size=12)
    carry_out(request, store)
    columns = ["clean_correct", "robust_correct", "forward_passes"]
    pd.testing.assert_frame_equal(make_records(store, request.identity)[columns], measure(request)[columns])
