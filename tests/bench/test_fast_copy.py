"""The network that attacks query: as good as the model, made of nothing of it, and only where that is safe."""

import pytest
import torch
from torch import Tensor, nn

import robustbench_bcos as rb
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.fast_copy import in_tf32, make_fast_copy
from robustbench_bcos.bench.request import check_precision
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encodings import NoEncoding
from robustbench_bcos.model_zoo.models import Model, find_models, own_model

NAMES = ["digits-natural", "digits-bcos-b1.25", "digits-bcos-b2", "digits-bcos-b2.5"]
BATCH = EvalSubset.of(Digits("test"), 32).batch(0, 32)


def zoo(name: str) -> Model:
    return find_models(name, Zoo())[0].load()


def gradient(classifier: nn.Module, images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(classifier(leaf).logsumexp(dim=1).sum(), leaf)
    return found


@pytest.mark.parametrize("memory_format", ["auto", "contiguous", "channels_last"])
@pytest.mark.parametrize("name", NAMES)
def test_a_fast_copy_has_the_models_logits_and_gradients(name: str, memory_format: str) -> None:
    model = make_fast_copy(zoo(name), memory_format=memory_format)  # type: ignore[arg-type]
    assert model.attack_model is model.fast_copy is not model.classifier
    expected, expected_gradient = model.classifier(BATCH.images), gradient(model.classifier, BATCH.images)
    torch.testing.assert_close(model.attack_model(BATCH.images), expected, rtol=1e-5, atol=1e-4)
    scale = expected_gradient.abs().amax()
    torch.testing.assert_close(
        gradient(model.attack_model, BATCH.images) / scale, expected_gradient / scale, rtol=1e-4, atol=1e-5
    )
    words = ["folded", *(["channels_last"] if memory_format != "contiguous" else []), "fp32"]
    assert model.attack_backend == " ".join(words)


def test_a_fast_copy_shares_no_memory_with_the_model() -> None:
    model = make_fast_copy(zoo("digits-bcos-b2"))
    own = {tensor.data_ptr() for tensor in model.classifier.parameters()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in model.attack_model.parameters())
    before = model.classifier(BATCH.images)
    with torch.no_grad():
        for tensor in model.attack_model.parameters():
            tensor.zero_()
    assert torch.equal(model.classifier(BATCH.images), before)


class Counting(nn.Module):
    """Knows how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, images: Tensor) -> Tensor:
        self.asked += 1
        return images.mean(dim=(1, 2, 3))[:, None] * self.weight


def test_a_module_that_may_count_its_calls_is_not_copied() -> None:
    for classifier in (Counting(), ImageClassifier(NoEncoding(), Counting()), nn.Sequential(Counting())):
        model = make_fast_copy(own_model("own", classifier))
        assert model.attack_model is classifier
        assert model.attack_backend == "unfolded fp32"


def test_hooks_are_not_copied() -> None:
    classifier = zoo("digits-natural").classifier
    classifier.get_submodule("network").register_forward_hook(lambda *_: None)
    assert make_fast_copy(own_model("hooked", classifier)).attack_model is classifier


def test_in_bfloat16_logits_come_back_whole_and_near() -> None:
    model = make_fast_copy(zoo("digits-natural"), precision="bf16")
    logits, expected = model.attack_model(BATCH.images), model.classifier(BATCH.images)
    assert logits.dtype == torch.float32
    assert model.attack_backend == "folded channels_last bf16"
    error = (logits - expected).abs().max() / expected.abs().max()
    # Eight bits of every factor: neither none of the error, nor more than some rounding of it.
    assert 1e-5 < float(error) < 0.1


def test_tf32_is_on_while_it_is_wanted_and_as_it_was_afterwards() -> None:
    def flags() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = flags()
    with in_tf32(True):
        assert flags() == (True, True)
    assert flags() == before
    with pytest.raises(KeyError), in_tf32(True):
        raise KeyError
    assert flags() == before
    with in_tf32(False):
        assert flags() == before


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("precision", "fp16", "unknown precision 'fp16': .*choose from bf16, fp32, tf32"),
        ("memory_format", "channels-lost", "unknown memory_format 'channels-lost': did you mean 'channels_last'"),
    ],
)
def test_what_there_is_not_is_refused(flag: str, value: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        make_config({flag: value})


def test_tf32_needs_a_gpu() -> None:
    with pytest.raises(RequestError, match="is how NVIDIA's GPUs round, and the device is cpu: use fp32 or bf16"):
        rb.evaluate("digits-natural", BATCH.images, BATCH.labels, "l2", 0.5, precision="tf32", device="cpu")
    check_precision("tf32", "cuda:1")
    check_precision("bf16", "cpu")
