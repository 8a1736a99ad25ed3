"""Evaluation subsets: balanced, nested, identified by what they hold, and never in memory as a whole."""

import shutil
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.dataset import AbstractDataset
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset

SHAPE = (3, 4, 5)


class Drawn(AbstractDataset):
    """Images that are made when they are asked for, and counted."""

    def __init__(
        self, labels: Sequence[int], classes: int, *, shape: tuple[int, ...] = SHAPE, name: str = "drawn"
    ) -> None:
        self.name = name
        self.labels = list(labels)
        self.class_names = tuple("abcdefghijklmnopqrstuvwxyz"[:classes])
        self.shape = shape
        self.reads: Counter[int] = Counter()

    def read(self, index: int) -> Tensor:
        self.reads[index] += 1
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(index))


class Memory(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.now += made.nbytes
            self.peak = max(self.peak, self.now)
            weakref.finalize(made, self._free, made.nbytes)
        return made

    def _free(self, size: int) -> None:
        self.now -= size


labels_of_up_to_4_classes = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@given(labels=labels_of_up_to_4_classes, data=st.data())
@settings(deadline=None)
def test_any_limit_is_as_balanced_as_the_dataset_allows(labels: list[int], data: st.DataObject) -> None:
    dataset = Drawn(labels, classes=4)
    limit = data.draw(st.integers(1, len(labels)))
    images = EvalSubset.of(dataset, limit)
    assert len(images) == limit == len(set(images.indices))
    available, chosen = Counter(labels), Counter(labels[index] for index in images.indices)
    # A class has fewer images than another by more than one only if it has no more of them.
    for label in available:
        assert chosen[label] == available[label] or chosen[label] >= max(chosen.values()) - 1


@given(labels=labels_of_up_to_4_classes, data=st.data())
@settings(deadline=None)
def test_a_smaller_limit_is_the_beginning_of_a_larger_one(labels: list[int], data: st.DataObject) -> None:
    dataset = Drawn(labels, classes=4)
    limit = data.draw(st.integers(1, len(labels)))
    assert EvalSubset.of(dataset).indices[:limit] == EvalSubset.of(dataset, limit).indices
    assert sorted(EvalSubset.of(dataset).indices) == list(range(len(labels)))


def test_the_order_is_the_first_of_each_class_then_the_second_of_each() -> None:
    assert EvalSubset.of(Drawn([2, 2, 0, 1, 2, 0], classes=3)).indices == (2, 3, 0, 5, 1, 4)


def test_a_class_without_images_changes_nothing() -> None:
    assert EvalSubset.of(Drawn([3, 3, 0], classes=5)).indices == (2, 0, 1)


def test_neither_choice_nor_digest_depends_on_a_seed() -> None:
    found = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        images = EvalSubset.of(Drawn([1, 0, 0, 1, 1], classes=2), limit=4)
        found.add((images.indices, images.digest))
    assert len(found) == 1


@pytest.mark.parametrize("size", [1, 3, 4, 7, 8, 100])
def test_batches_concatenate_to_the_whole(size: int) -> None:
    images = EvalSubset.of(Drawn([0, 2, 1, 1, 2, 0, 0, 1], classes=3), limit=7)
    batches = list(images.batches(size))
    assert [len(batch.labels) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    whole = images.batch(0, 7)
    assert torch.equal(torch.cat([batch.images for batch in batches]), whole.images)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), whole.labels)
    assert tuple(index for batch in batches for index in batch.indices) == whole.indices == images.indices
    for image, label, index in zip(*whole, strict=True):
        assert torch.equal(image, images.dataset.read(index))
        assert label == images.dataset.labels[index]


def test_selected_images_of_a_batch_keep_their_labels_and_positions() -> None:
    batch = EvalSubset(Digits("test"), (7, 3, 9, 1)).batch(0, 4)
    some = batch.select([2, 0])
    assert some.indices == (9, 7)
    assert torch.equal(some.images, batch.images[[2, 0]])
    assert torch.equal(some.labels, batch.labels[[2, 0]])


def test_a_gpu_is_given_pinned_memory_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str, object]] = []

    def pin(tensor: Tensor) -> Tensor:
        asked.append((tensor.ndim, "pinned", None))
        return tensor

    def move(tensor: Tensor, device: str, *, non_blocking: bool = False) -> Tensor:
        asked.append((tensor.ndim, device, non_blocking))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", move)
    batch = EvalSubset(Digits("test"), (7, 3)).batch(0, 2)
    moved = batch.on("cuda:1")
    assert moved.images is batch.images
    assert moved.indices == (7, 3)
    assert asked == [(4, "pinned", None), (1, "pinned", None), (4, "cuda:1", True), (1, "cuda:1", True)]
    asked.clear()
    assert batch.on("cpu").labels is batch.labels
    assert {device for _, device, _ in asked} == {"cpu"}


def test_images_are_read_when_they_are_asked_for() -> None:
    dataset = Drawn([0, 1, 0, 1, 0, 1], classes=2)
    images = EvalSubset.of(dataset)
    assert not dataset.reads
    images.batch(2, 4)
    # The first image tells the size that all must have.
    assert set(dataset.reads) == {*images.indices[2:4], images.indices[0]}


def consume(images: EvalSubset) -> None:
    assert sum(len(batch.labels) for batch in images.batches(100)) == len(images)


@pytest.mark.parametrize("use", [consume, lambda images: images.digest], ids=["batches", "digest"])
def test_memory_does_not_grow_with_the_number_of_images(use: Callable[[EvalSubset], object]) -> None:
    dataset = Drawn([index % 10 for index in range(10_000)], classes=10, shape=(3, 16, 16))
    images = EvalSubset.of(dataset)
    with Memory() as memory:
        use(images)
    assert len(dataset.reads) == 10_000
    one = 3 * 16 * 16 * 4
    # Two batches of at most 256 images, each once as it was read and once stacked.
    assert 0 < memory.peak <= 4 * 256 * one < 10_000 * one / 9


def test_the_digest_depends_on_one_level_of_one_pixel() -> None:
    pixels = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    changed = pixels.clone()
    changed[2, 1, 3, 4] = torch.nextafter(changed[2, 1, 3, 4], torch.tensor(0.0))
    labels = torch.tensor([0, 1, 1, 0])
    digests = [EvalSubset.of(InMemory(images, labels, classes=2)).digest for images in (pixels, changed, pixels)]
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]


def test_the_digest_depends_on_labels_order_number_and_class_names() -> None:
    pixels = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    subsets = [
        EvalSubset.of(InMemory(pixels, labels, classes=4)),
        # Relabelled such that the order is the same, and such that it is not.
        EvalSubset.of(InMemory(pixels, torch.tensor([0, 1, 3, 0, 1, 3]), classes=4)),
        EvalSubset.of(InMemory(pixels, labels[[0, 1, 2, 0, 2, 1]], classes=4)),
        EvalSubset.of(InMemory(pixels[[3, 1, 2, 0, 4, 5]], labels, classes=4)),
        EvalSubset.of(InMemory(pixels, labels, classes=3)),
        EvalSubset.of(InMemory(pixels, labels, classes=4), limit=5),
        EvalSubset(InMemory(pixels, labels, classes=4), (1, 0, 2, 3, 4, 5)),
        EvalSubset.of(InMemory(pixels.transpose(2, 3), labels, classes=4)),
        EvalSubset.of(InMemory(pixels.reshape(6, 3, 5, 4), labels, classes=4)),
    ]
    assert len({images.digest for images in subsets}) == len(subsets)


def test_the_digest_depends_on_positions_in_the_dataset_since_noise_does() -> None:
    pixels = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    pair = EvalSubset(InMemory(pixels, torch.tensor([0, 1]), classes=2), (0, 1))
    apart = EvalSubset(InMemory(pixels[[0, 0, 1]], torch.tensor([0, 0, 1]), classes=2), (0, 2))
    assert torch.equal(pair.batch(0, 2).images, apart.batch(0, 2).images)
    assert pair.digest != apart.digest


def test_the_digest_depends_on_nothing_else() -> None:
    labels = [0, 1, 1, 0, 1]
    digest = EvalSubset.of(Drawn(labels, classes=2)).digest
    assert EvalSubset.of(Drawn(labels, classes=2, name="another")).digest == digest
    pixels = torch.stack([Drawn(labels, classes=2).read(index) for index in range(5)])
    copy = InMemory(pixels.double(), torch.tensor(labels), classes=2)
    copy.class_names = ("a", "b")
    assert EvalSubset.of(copy).digest == digest


def test_the_digest_of_a_folder_does_not_depend_on_its_place(tmp_path: Path) -> None:
    for seed, place in enumerate(["ant/1.png", "ant/2.png", "cat/1.png"]):
        file = tmp_path / "here" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)).save(file)
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "test")
    (tmp_path / "there/test/cat/1.png").rename(tmp_path / "there/test/cat/renamed.png")
    digests = [EvalSubset.of(open_dataset(f"folder:{tmp_path}/{place}", "test")).digest for place in ("here", "there")]
    assert digests[0] == digests[1]
    (tmp_path / "there/test/cat").rename(tmp_path / "there/test/dog")
    assert EvalSubset.of(open_dataset(f"folder:{tmp_path}/there", "test")).digest != digests[0]


@pytest.mark.parametrize("limit", [0, -1, 4])
def test_a_limit_that_cannot_be_met_is_refused(limit: int) -> None:
    with pytest.raises(RequestError, match=f"^limit {limit} must be between 1 and the 3 images of drawn$"):
        EvalSubset.of(Drawn([0, 1, 1], classes=2), limit)


def test_a_dataset_without_images_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^drawn holds no images"):
        EvalSubset.of(Drawn([], classes=2))


def test_an_image_that_cannot_be_read_is_found_by_the_digest() -> None:
    class Broken(Drawn):
        def read(self, index: int) -> Tensor:
            if index == 3:
                raise RequestError("image 3 cannot be decoded")
            return super().read(index)

    with pytest.raises(RequestError, match=r"^image 3 cannot"):
        _ = EvalSubset.of(Broken([0, 1, 0, 1, 1], classes=2)).digest


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 2, 4, 5), [0, 1]),
        (torch.full((2, *SHAPE), 1.5), [0, 1]),
        (torch.full((2, *SHAPE), -0.5), [0, 1]),
        (torch.full((2, *SHAPE), torch.nan), [0, 1]),
        (torch.zeros(2, *SHAPE), [0, 3]),
        (torch.zeros(2, *SHAPE), [-1, 0]),
        (torch.zeros(0, *SHAPE), []),
    ],
    ids=["two channels", "above 1", "below 0", "NaN", "label too large", "negative label", "nothing"],
)
def test_tensors_that_are_no_labelled_images_are_refused(images: Tensor, labels: list[int]) -> None:
    with pytest.raises(RequestError, match=r"^(images|labels) must"):
        InMemory(images, torch.tensor(labels, dtype=torch.long), classes=3)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(6, *SHAPE), ["all 6 are the same picture", "only the values 0."]),
        (torch.linspace(0, 1, 6)[:, None, None, None].expand(6, *SHAPE), ["each of the 6 is of a single", "only the"]),
        (torch.rand(1, *SHAPE).expand(6, *SHAPE), ["all 6 are the same picture"]),
        (torch.rand(6, *SHAPE).round(), ["only the values 0, 1."]),
        (torch.rand(6, *SHAPE), []),
        (torch.rand(4, *SHAPE)[[0, 1, 2, 3, 1, 1]], ["2 of the 6 are copies of another one"]),
    ],
    ids=["black", "single colours", "one picture", "black and white", "noise", "copies"],
)
def test_images_that_do_not_differ_are_named(images: Tensor, said: list[str]) -> None:
    subset = EvalSubset.of(InMemory(images.contiguous(), torch.arange(6) % 3, classes=3))
    assert len(subset.notes) == len(said)
    assert all(words in note for words, note in zip(said, subset.notes, strict=True))
    # One image alone is of no kind.
    assert not any("same" in note for note in EvalSubset.of(subset.dataset, 1).notes)
