"""How a request is carried out on this machine, and how much work is told of."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench.evidence.check import AbstractCellCheck, checks_of
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.schedule import Schedule, cores
from robustbench_bcos.bench.store import Store
from tests.bench.own_request import own_request
from tests.bench.tiny_zoo import tiny_request


class FirstPixels(nn.Module):
    """Two logits, read off an image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]


def schedule(pixels: int, **flags: Any) -> Schedule:
    """Of two models on two images of so many rows and columns."""
    images = torch.rand(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    nets = {"one": FirstPixels(), "two": FirstPixels()}
    return Schedule(request=own_request(nets, images, torch.tensor([0, 1]), 2, eps="0.1", **flags))


# Threads


def test_small_images_get_one_thread_unless_more_are_asked_for(tiny_zoo: Path) -> None:
    assert tiny_request(tiny_zoo, limit=2).threads == 1
    assert tiny_request(tiny_zoo, limit=2, threads=3).threads == 3


@pytest.mark.parametrize(
    ("available", "pixels", "asked", "jobs"),
    [(4, 8, {}, 2), (1, 8, {}, 1), (4, 32, {}, 1), (4, 8, {"jobs": 1}, 1), (4, 32, {"jobs": 3}, 3)],
)
def test_small_images_leave_a_core_to_each_model(
    available: int, pixels: int, asked: dict[str, Any], jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(available)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: available)
    assert schedule(pixels, **asked).jobs == jobs


def test_cores_are_asked_for_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when some module is first imported, as whatever imports it first may have set other threads."""
    made = schedule(8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for stated, expected in {"1": 1, "2": 2, "5": 5, "16": 8, "": 8, "0": 8, "4,2": 8}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", stated)
        assert cores() == expected
        assert made.jobs == min(expected, 2)


# Work


def test_work_counts_what_is_attacked_explained_checked_and_measured(tiny_zoo: Path) -> None:
    def work(**flags: Any) -> int:
        return Schedule(request=tiny_request(tiny_zoo, limit=20, norm=("l2", "linf"), eps=("0.1",), **flags)).work

    # Two models, two norms.
    assert work() == 4 * 20
    assert work(explained=5) == 4 * (20 + 5)
    assert work(distances=True) == 4 * 20 + 4 * 20
    assert work(certify="smoothing", certify_sigma=("0.1", "0.2")) == 4 * 20 + 2 * 2 * 20
    quick, full = (len(checks_of(evidence, AbstractCellCheck)) for evidence in ("quick", "full"))
    assert 0 < quick < full
    assert work(evidence="quick") == 4 * (20 + quick * 2)
    assert work(evidence="full", explained=3) == 4 * (20 + 3 + full * 20)


@pytest.mark.parametrize(
    "flags",
    [
        {"explained": 2},
        {"evidence": "quick", "distances": True},
        {"certify": "smoothing", "certify_draws": 10},
    ],
    ids=str,
)
def test_the_work_that_is_reported_is_the_work_of_the_schedule_however_much_was_done_before(
    flags: dict[str, Any], tiny_zoo: Path, store: Store
) -> None:
    request = tiny_request(tiny_zoo, eps=("0.1", "0.3"), limit=3, batch_size=2, **flags)
    for _ in range(2):
        assert sum(progress.images for progress in execute(request, store)) == Schedule(request=request).work


def test_passes_are_those_of_attacks_evidence_and_maps(tiny_zoo: Path) -> None:
    def passes(**flags: Any) -> int:
        return Schedule(request=tiny_request(tiny_zoo, limit=20, model=("tiny-natural",), **flags)).passes

    search = 2 * 3 + 1
    assert passes() == 20 * search
    # Each explained image is attacked in full, and explained clean, attacked, with noise, and next to another one.
    assert passes(explained=5) == (20 + 5) * search + 5 * 4 * 4
    # The attack on a map begins at the adversarial example, too.
    assert (
        passes(goal=("explanation:away", "explanation:topk"), explained=5) == passes(explained=5) + 2 * 5 * 2 * search
    )
    assert passes(evidence="quick") == 2 * 20 * search
    assert passes(evidence="full") > 4 * 20 * search
