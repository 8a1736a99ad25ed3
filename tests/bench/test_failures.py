"""A model that fails on the way is named with cell and image, what was done is kept, and the run can go on."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import CleanRow, VerdictRow
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.stages import attack as stage
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import Broken
from tests.bench.own_request import own_request

COUNT, FATAL = 12, 3

Fault = Callable[["Fragile", Tensor], bool]


class Fragile(nn.Module):
    """Two classes by the brightness of the first pixel; fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(5.0))
        self.fault: Fault = never
        self.answering: Callable[[Tensor], Tensor] = unchanged

    def forward(self, images: Tensor) -> Tensor:
        if self.fault(self, images):
            raise KeyError("eps")
        first = self.slope * (images[:, 0, 0, 0] - 0.5)
        return self.answering(torch.stack([-first, first], dim=1))


def unchanged(answer: Tensor) -> Tensor:
    return answer


def never(network: Fragile, images: Tensor) -> bool:
    return False


def on_one_image(network: Fragile, images: Tensor) -> bool:
    return bool((images[:, 2, 0, 0] == FATAL / 255).any())


def under_attack(network: Fragile, images: Tensor) -> bool:
    """Pixels that no image has."""
    return bool((images[:, 1, 0, 0] > 0.1).any())


def always(network: Fragile, images: Tensor) -> bool:
    return True


def request_of(network: Fragile, **flags: object) -> Request:
    images = torch.zeros(COUNT, 3, 2, 2)
    images[:, 2, 0, 0] = torch.arange(COUNT) / 255
    images[::2, 0, 0, 0] = 1
    labels = (images[:, 0, 0, 0] > 0.5).long()
    return own_request({"fragile": network}, images, labels, 2, norm="linf", eps="0.2", batch_size=2, steps=3, **flags)


def failure(request: Request, store: Store) -> str:
    with pytest.raises(Broken) as caught:
        list(execute(request, store))
    assert isinstance(caught.value.__cause__, KeyError)
    return str(caught.value)


def goes_on(request: Request, store: Store) -> None:
    """The same request, once the model has been mended, ends as if nothing had happened."""
    whole = Store()
    for each in (store, whole):
        list(execute(request, each))
    assert store.select(VerdictRow) == whole.select(VerdictRow)
    assert len(store.select(VerdictRow)) == COUNT


@pytest.mark.parametrize(
    ("fault", "at"),
    [
        (on_one_image, f"failed at image {FATAL} in cell 'fragile linf 0.2 pgd "),
        (under_attack, "failed at one of the images "),
    ],
)
def test_cell_image_and_line_are_named_and_the_run_goes_on(fault: Fault, at: str) -> None:
    network = Fragile()
    request, store = request_of(network, start="random"), Store()
    network.fault = fault
    said = failure(request, store)
    assert said.startswith(f"model 'fragile' {at}")
    assert "in cell 'fragile linf 0.2 pgd " in said
    assert "(KeyError: 'eps', tests/bench/test_failures.py, line " in said
    assert said.endswith("): mend it there")
    assert store.select(CleanRow)
    network.fault = never
    goes_on(request, store)


@pytest.mark.parametrize("verdicts", [1, COUNT], ids=["attacking", "checking"])
def test_what_was_done_before_is_kept(verdicts: int) -> None:
    network = Fragile()
    request, store = request_of(network, evidence="quick"), Store()
    steps = execute(request, store)
    while len(store.select(VerdictRow)) < verdicts:
        next(steps)
    network.fault = always
    with pytest.raises(Broken, match=r"^model 'fragile' failed .*in cell 'fragile linf 0.2 pgd "):
        list(steps)
    kept = store.select(VerdictRow)
    assert len(kept) >= verdicts
    network.fault = never
    list(execute(request, store))
    assert store.select(VerdictRow)[: len(kept)] == kept
    assert len(store.select(VerdictRow)) == COUNT


def exits(answer: Tensor) -> Tensor:
    sys.exit(0)


def overwritten(answer: Tensor) -> Tensor:
    grown = answer.exp()
    squared = grown * grown
    grown += 1
    return squared


@pytest.mark.parametrize(
    ("answering", "reason"),
    [
        (exits, "SystemExit: 0, tests/bench/test_failures.py, line "),
        (overwritten, "one of the variables needed for gradient computation has been modified by an inplace operation"),
        (lambda answer: answer[:, :1], "it gives outputs of shape (2, 1) where (2, 2) is the form"),
        (lambda answer: answer.repeat(1, 2), "it gives outputs of shape (2, 4) where (2, 2) is the form"),
        (lambda answer: answer[:1], "it gives outputs of shape (1, 2) where (2, 2) is the form"),
        (lambda answer: (answer, answer), "it gives tuple where (2, 2) is the form of its first answers"),
    ],
    ids=["exits", "overwritten", "one class", "more classes", "one image", "tuple"],
)
def test_answers_of_another_form_and_exits_are_named(answering: Callable[[Tensor], Tensor], reason: str) -> None:
    network = Fragile()
    request, store = request_of(network), Store()
    steps = execute(request, store)
    while not store.select(VerdictRow):
        next(steps)
    network.answering = answering
    with pytest.raises(Broken, match=r"^model 'fragile' failed at .*in cell 'fragile linf 0.2 pgd ") as caught:
        list(steps)
    assert f"({reason}" in str(caught.value)
    kept = store.select(VerdictRow)
    assert kept
    network.answering = unchanged
    list(execute(request, store))
    assert store.select(VerdictRow)[: len(kept)] == kept
    assert len(store.select(VerdictRow)) == COUNT


def test_a_model_that_fails_before_the_first_attack_is_named_with_the_image() -> None:
    network = Fragile()
    network.fault = on_one_image
    with pytest.raises(Broken, match=rf"^model 'fragile' failed at image {FATAL} before the first attack \(KeyError"):
        request_of(network, skip_model_checks=False)


def test_an_attack_of_ones_own_is_not_taken_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("eps")

    request = request_of(Fragile())
    monkeypatch.setattr(PGD, "_walk", fail)
    assert failure(request, Store()).startswith("a plug-in failed at one of the images ")


def test_a_mistake_of_this_package_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(Fragile())
    # Raises an error inside of this package, below which no foreign code is.
    monkeypatch.setattr(stage, "NEARNESS_DIGITS", None)
    with pytest.raises(ValueError, match="Format specifier missing precision"):
        list(execute(request, Store()))
