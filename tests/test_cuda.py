"""What a GPU finds is what the CPU finds; skipped where there is none: benchmarks/on_device.py runs it on one."""

import pytest
import torch
from torch import Tensor

from robustbench_bcos import evaluate, load_model
from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import explain

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]

CARD = "cuda"

SHORT = 500
"""Passes of an attack that is tried on both; the machine may be lent for minutes."""


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    batch = EvalSubset.of(open_dataset("digits", "test")).batch(0, 12)
    return batch.images, batch.labels


@pytest.mark.parametrize("attack", [name for name in ATTACKS if ATTACKS[name]().passes <= SHORT])
def test_attacks_break_the_same_images(attack: str, digits: tuple[Tensor, Tensor]) -> None:
    asked = {"norm": "l2", "eps": 0.5, "attack": attack, "evidence": "off"}
    here, there = (evaluate("digits-bcos-b2", *digits, device=device, **asked) for device in ("cpu", CARD))
    assert here["robust_correct"].tolist() == there["robust_correct"].tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["digits-natural", "digits-bcos-b2"])
def test_maps_are_those_of_the_cpu(name: str, method: str, digits: tuple[Tensor, Tensor]) -> None:
    model, images = load_model(name), digits[0][:4]
    try:
        here = explain(model, images, method=method).contributions
    except RequestError as error:
        pytest.skip(str(error))  # Not every method serves every network.
    there = explain(model.to(CARD), images.to(CARD), method=method).contributions.cpu()
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4 * float(here.abs().max()))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_verdicts_of_coarse_searches_are_those_of_float32(precision: str, digits: tuple[Tensor, Tensor]) -> None:
    asked = {"norm": "linf", "eps": 0.1, "steps": 20, "evidence": "off", "device": CARD}
    exact, coarse = (evaluate("digits-bcos-b2", *digits, precision=one, **asked) for one in ("fp32", precision))
    assert abs(int(exact["robust_correct"].iloc[0]) - int(coarse["robust_correct"].iloc[0])) <= 1
