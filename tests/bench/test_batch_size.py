"""Batches as large as memory allows, and smaller ones where it did not."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench import batch_size
from robustbench_bcos.bench.batch_size import BatchSize, bytes_for_backward, memory_of
from robustbench_bcos.core.devices import is_out_of_memory
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.classifier import freeze
from tests.bench.own_request import own_request
from tests.bench.tiny_zoo import measure, model_of, tiny_request

EXAMPLE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Squares(nn.Module):
    """Keeps two tensors of a known size for its backward pass, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))

    def forward(self, images: Tensor) -> Tensor:
        squared = images * images
        return (squared.exp() * squared.exp()).flatten(1) @ self.weight[:192, None]


def test_what_a_forward_pass_keeps_is_counted_once_and_without_parameters() -> None:
    # images * images keeps the images; each exp keeps its result, and so does their product: 3 x 192 floats.
    # The flattened product is not needed, because the weights are frozen.
    assert bytes_for_backward(freeze(Squares()), EXAMPLE) == 3 * 192 * 4


def test_a_model_that_keeps_nothing_needs_nothing() -> None:
    class Blind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.detach().flatten(1)

    assert bytes_for_backward(Blind(), EXAMPLE) == 0
    assert BatchSize.of(Blind(), EXAMPLE, None).images == 256


@pytest.mark.parametrize(
    ("memory", "images"),
    [
        (4 * 100 * 2304, 64),
        (4 * 64 * 2304, 64),
        (4 * 64 * 2304 - 1, 32),
        (4 * 2304, 1),
        (1, 1),
        (1 << 50, 256),
    ],
)
def test_the_batch_is_the_largest_power_of_two_that_fits_a_quarter_of_memory(
    memory: int, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "memory_of", lambda device: memory)
    assert BatchSize.of(freeze(Squares()), EXAMPLE, None).images == images


def test_what_is_asked_for_is_used() -> None:
    assert BatchSize.of(freeze(Squares()), EXAMPLE, 1000).images == 1000


def test_memory_is_what_the_machine_has_or_what_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(batch_size, "CGROUP_LIMIT", limit)
    machine = memory_of(torch.device("cpu"))
    told = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert machine == pytest.approx(int(told.split()[1]) * 1024, rel=0.01)
    limit.write_text("max\n")
    assert memory_of(torch.device("cpu")) == machine
    limit.write_text("123456789\n")
    assert memory_of(torch.device("cpu")) == 123456789


def parts(size: BatchSize, count: int, room: int) -> list[tuple[int, int, bool]]:
    """What is tried, and whether it was done, where only so many images fit."""
    tried = []
    for attempt in size.over(count):
        with attempt as part:
            if part.stop - part.start > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
        tried.append((part.start, part.stop, not attempt.failed))
    return tried


def test_parts_cover_everything_once_and_shrink_where_memory_ran_out() -> None:
    assert parts(BatchSize(4), 10, 4) == [(0, 4, True), (4, 8, True), (8, 10, True)]
    size = BatchSize(8)
    tried = [(0, 8, False), (0, 4, False), (0, 2, True), (2, 4, True), (4, 6, True), (6, 8, True), (8, 10, True)]
    assert parts(size, 10, 3) == tried
    assert size.images == 2
    assert parts(size, 3, 3) == [(0, 2, True), (2, 3, True)]
    assert parts(BatchSize(256), 3, 1) == [(0, 3, False), (0, 1, True), (1, 2, True), (2, 3, True)]


def test_a_single_image_that_does_not_fit_is_a_request_that_cannot_be_met() -> None:
    with pytest.raises(RequestError, match="memory runs out with a single image: free some, choose a smaller model"):
        parts(BatchSize(2), 2, 0)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("DefaultCPUAllocator"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_running_out_of_memory_is_forgiven(error: BaseException, memory: bool) -> None:
    assert is_out_of_memory(error) is memory
    attempt = next(BatchSize(1).over(1))
    if memory:
        with attempt:
            raise error
        assert attempt.failed
    else:
        with pytest.raises(type(error)), attempt:
            raise error
        assert not attempt.failed


class Narrow(nn.Module):
    """Fails as a GPU does on more than three images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(images)


def test_a_run_whose_memory_runs_out_everywhere_gives_the_same_rows(tiny_zoo: Path) -> None:
    """Attack, explanations, evidence and distances each meet a network that takes three images."""
    request = tiny_request(tiny_zoo, model=("tiny-natural",), limit=10, explained=5)
    batch = request.subset.batch(0, 10)
    network = model_of(request, "tiny-natural").classifier
    asked = {"eps": ("0.5",), "steps": (4,), "evidence": "quick", "distances": True, "seed": 3}
    wide = measure(own_request({"net": network}, batch.images, batch.labels, 10, **asked))
    narrow = measure(own_request({"net": Narrow(network)}, batch.images, batch.labels, 10, **asked))
    different = [name for name in wide if not wide[name].equals(narrow[name])]
    # Questions that are put to 16 images at once cannot be asked, which the row says.
    differing = {
        "architecture",
        "encoding",
        "attack_backend",
        "weights_sha256",
        "trust",
        "reasons",
        "forward_passes",
        "backward_passes",
    }
    assert set(different) <= differing
    assert (wide["robust_correct"] == narrow["robust_correct"]).all()
    assert (wide["worst_correct"] == narrow["worst_correct"]).all()


LIMITED = """
import resource, torch
torch.set_num_threads(1)
from torch import nn
import robustbench_bcos as rb

class Wide(nn.Module):
    def forward(self, images):
        features = images.flatten(1).repeat(1, 5000)
        return features.exp().unflatten(1, (10, -1)).mean(dim=2)

images = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
labels = Wide()(images).argmax(dim=1)

def broken():
    row = rb.evaluate(Wide(), images, labels, "l2", 0.5, steps=2, evidence="off", batch_size=32, name="wide").iloc[0]
    return row.images, row.clean_correct, row.robust_correct, row.forward_passes

before = broken()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
try:
    torch.ones(32, 3, 8, 8, requires_grad=True).flatten(1).repeat(1, 5000).exp().exp()
    print("it fits")
except RuntimeError:
    assert broken() == before, (broken(), before)
    print("the same")
"""
"""A network that keeps 12 MB of each image, in a process that may have 100 MB more."""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux alone tells a process its size and limits it")
def test_real_memory_that_runs_out_is_survived() -> None:
    ended = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=300)
    assert (ended.stdout, ended.returncode) == ("the same\n", 0), ended.stderr


def test_records_do_not_depend_on_the_batch_that_was_chosen(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = measure(tiny_request(tiny_zoo))
    monkeypatch.setattr(batch_size, "memory_of", lambda device: 4 * 300_000)
    pd.testing.assert_frame_equal(measure(tiny_request(tiny_zoo)), chosen)
