"""Batches shared out among threads: the same logits and gradients, errors as they are, and nothing left behind."""

import gc
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench.fast_copy import make_fast_copy
from robustbench_bcos.bench.replicas import LEAST, ThreadedReplicas
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AddInverse
from robustbench_bcos.model_zoo.models import Model, find_models, own_model
from tests.bench.tiny_zoo import measure, tiny_request


def random_network(name: str = "bcos_resnet20", channels: int = 6) -> nn.Module:
    network = build_architecture(name, in_channels=channels, classes=10, arguments={})
    initialise(network, torch.Generator().manual_seed(0))
    return freeze(network)


def pictures(count: int, channels: int = 6) -> Tensor:
    return torch.rand((count, channels, 8, 8), generator=torch.Generator().manual_seed(count))


def gradient(network: nn.Module, images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(network(leaf).logsumexp(dim=1).sum(), leaf)
    return found


class Witness(nn.Module):
    """Knows which threads asked it, about how many images, and how many threads torch had there."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int, int]] = []

    def forward(self, features: Tensor) -> Tensor:
        self.asked.append((threading.current_thread().name, len(features), torch.get_num_threads()))
        # Long enough that one thread cannot do the work of two.
        time.sleep(0.02)
        return features.flatten(1) * 2


@pytest.mark.parametrize("name", ["resnet20", "bcos_resnet20"])
@pytest.mark.parametrize(("replicas", "count"), [(2, 16), (2, 33), (3, 25), (4, 64)])
def test_logits_and_gradients_are_those_of_the_network(name: str, replicas: int, count: int) -> None:
    network, images = fold(random_network(name)), pictures(count)
    shared = ThreadedReplicas(network, replicas)
    torch.testing.assert_close(shared(images), network(images), rtol=1e-5, atol=1e-6)
    expected = gradient(network, images)
    scale = expected.abs().max()
    torch.testing.assert_close(gradient(shared, images) / scale, expected / scale, rtol=1e-4, atol=1e-5)


def test_each_replica_gets_its_share_and_one_thread_of_torch() -> None:
    before, witness = torch.get_num_threads(), Witness()
    torch.set_num_threads(2)
    try:
        shared = ThreadedReplicas(witness, 3)
        images = pictures(LEAST * 3 + 1)
        for grad in (False, True):
            witness.asked.clear()
            with torch.set_grad_enabled(grad):
                shared(images.requires_grad_(grad))
            names, counts, threads = zip(*sorted(witness.asked), strict=True)
            assert len(set(names)) == 3
            assert all(name.startswith("replica") for name in names)
            assert sorted(counts) == [LEAST, LEAST, LEAST + 1]
            assert threads == (1, 1, 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("compiled", [False, True])
def test_replicas_work_at_the_same_time_but_where_each_would_compile(compiled: bool) -> None:
    class Together(nn.Module):
        """Says how many were here at once, each time."""

        def __init__(self) -> None:
            super().__init__()
            self.here, self.most, self.lock = 0, 0, threading.Lock()

        def forward(self, features: Tensor) -> Tensor:
            with self.lock:
                self.here += 1
                self.most = max(self.most, self.here)
            time.sleep(0.1)
            with self.lock:
                self.here -= 1
            return features.flatten(1) * 2

    together = Together()
    shared = ThreadedReplicas(together, 2, compiled=compiled)
    for images in (pictures(20), pictures(20).requires_grad_()):
        for most in (1 if compiled else 2, 2):
            together.most = 0
            shared(images)
            assert together.most == most


@pytest.mark.parametrize("count", [0, 1, 2 * LEAST - 1])
def test_few_images_are_left_to_torch(count: int) -> None:
    witness = Witness()
    ThreadedReplicas(witness, 2)(pictures(count))
    assert witness.asked == [(threading.current_thread().name, count, torch.get_num_threads())]


def test_where_no_gradient_is_asked_for_none_is_prepared() -> None:
    shared, leaf = ThreadedReplicas(fold(random_network()), 2), pictures(20).requires_grad_()
    assert shared(leaf).requires_grad
    with torch.no_grad():
        assert not shared(leaf).requires_grad
    assert not shared(leaf.detach()).requires_grad


def test_gradients_are_taken_once_and_have_none_of_their_own() -> None:
    shared, leaf = ThreadedReplicas(fold(random_network("resnet20")), 2), pictures(20).requires_grad_()
    logits = shared(leaf).sum()
    torch.autograd.grad(logits, leaf, retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(logits, leaf)
    with pytest.raises(RequestError, match=r"gradients that can be differentiated again: ask the model itself"):
        torch.autograd.grad(shared(leaf).sum(), leaf, create_graph=True)


def test_what_does_not_depend_on_the_image_has_a_gradient_of_zero() -> None:
    class Constant(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features.flatten(1).detach()

    assert not gradient(ThreadedReplicas(Constant(), 2), pictures(20)).any()


def test_replicas_see_what_is_explained() -> None:
    network, images = random_network(), pictures(20)
    shared = ThreadedReplicas(network, 2)
    with explanation_mode(shared):
        weights, expected = gradient(shared, images), gradient(network, images)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(weights, gradient(shared, images), rtol=1e-2, atol=1e-5)


def test_errors_come_as_they_are() -> None:
    class Failing(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            if features[0, 0, 0, 0] == 0:
                raise RequestError("black")
            return features.flatten(1)

    images = pictures(20)
    shared = ThreadedReplicas(Failing(), 2)
    shared(images)
    images[10] = 0
    for asked in (images, images.clone().requires_grad_()):
        with pytest.raises(RequestError, match=r"^black$"):
            shared(asked)


def test_threads_end_with_the_replicas() -> None:
    others = set(threading.enumerate())
    shared = ThreadedReplicas(fold(random_network()), 2)
    gradient(shared, pictures(20))
    own = set(threading.enumerate()) - others
    assert len(own) == 2
    del shared
    gc.collect()
    for thread in own:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in own)


def digits() -> Model:
    return find_models("digits-bcos-b2", Zoo())[0].load()


def replicas_of(model: Model) -> list[int]:
    return [module.count for module in model.attack_model.modules() if isinstance(module, ThreadedReplicas)]


def test_a_fast_copy_has_replicas_behind_its_encoding_and_the_model_has_none() -> None:
    model = make_fast_copy(digits(), replicas=2)
    assert isinstance(model.attack_model, ImageClassifier)
    assert isinstance(model.attack_model.network, ThreadedReplicas)
    assert (replicas_of(model), replicas_of(make_fast_copy(digits()))) == ([2], [])
    assert not model.attack_model.network.compiled
    compiled = make_fast_copy(digits(), replicas=2, compiled=True).attack_model
    assert isinstance(compiled, ImageClassifier)
    assert compiled.network.compiled
    assert not any(isinstance(module, ThreadedReplicas) for module in model.classifier.modules())


def test_a_module_that_may_count_its_calls_is_asked_by_one_thread() -> None:
    counting = ImageClassifier(AddInverse(), Witness())
    assert make_fast_copy(own_model("own", counting), replicas=2).attack_model is counting


def test_a_run_has_as_many_replicas_as_threads(tiny_zoo: Path) -> None:
    for flags, expected in (({}, []), ({"threads": 3}, [3])):
        request = tiny_request(tiny_zoo, limit=2, **flags)
        assert replicas_of(request.models.get(request.sources[0])) == expected


def test_a_run_measures_the_same_with_and_without(tiny_zoo: Path) -> None:
    alone, shared = (measure(tiny_request(tiny_zoo, limit=40, threads=threads)) for threads in (1, 2))
    columns = [name for name in alone.columns if name != "seconds"]
    pd.testing.assert_frame_equal(alone[columns], shared[columns], check_exact=True)
