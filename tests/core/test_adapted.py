"""Models in the forms that people have them in: adapted to logits, asked in evaluation mode, and left as they were."""

import functools
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.core.adapted import (
    Adapted,
    adapted,
    as_logits,
    copied,
    differentiable,
    in_evaluation_mode,
    modules_of,
    name_of,
)
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.classifier import freeze

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
FEATURES = torch.zeros(2, 5)
Output = namedtuple("Output", ["loss", "logits", "hidden"])
IMAGES = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def net(**options: Any) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(60, 3, **options))


@pytest.mark.parametrize(
    "answer",
    [
        LOGITS,
        (LOGITS,),
        (LOGITS, LOGITS.mean()),
        [torch.zeros(2, 4, 4), LOGITS],
        {"out": LOGITS, "loss": torch.tensor(0.1)},
        {"features": FEATURES, "logits": LOGITS},
        Output(torch.tensor(0.1), LOGITS, FEATURES),
        (LOGITS, torch.ones(2, 3, dtype=torch.long)),
    ],
)
def test_the_logits_among_several_outputs_are_taken(answer: object) -> None:
    assert as_logits(answer, 2) is LOGITS


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_one_logit_is_that_of_the_second_of_two_classes(shape: tuple[int, ...]) -> None:
    one = torch.tensor([1.2, -3.0])
    both = as_logits(one.reshape(shape), 2)
    torch.testing.assert_close(both.softmax(dim=1)[:, 1], one.sigmoid())
    assert both.argmax(dim=1).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((LOGITS, FEATURES), r"tuple with tensors of shape \(2, 3\) and \(2, 5\), each of which may be logits"),
        ({"a": LOGITS, "b": LOGITS}, "dict with tensors"),
        ((LOGITS.mean(),), "the model returns tuple: it must return a tensor"),
        (None, "the model returns NoneType"),
        (LOGITS.numpy(), "the model returns ndarray"),
        (LOGITS[0], r"outputs of shape \(3,\) for 2 images"),
        (LOGITS.long(), "the model returns torch.int64"),
        (LOGITS.argmax(dim=1), "the model returns torch.int64"),
        (torch.zeros(2, 3, 4, 4), r"shape \(2, 3, 4, 4\)"),
    ],
)
def test_what_cannot_be_read_as_logits_is_refused(answer: object, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        as_logits(answer, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_come_in_the_precision_of_the_parameters(dtype: torch.dtype) -> None:
    model = net().eval().to(dtype)
    for asked in (model, lambda images: model(images)):
        images = IMAGES.clone().requires_grad_()
        logits = Adapted(asked)(images)
        (gradient,) = torch.autograd.grad(logits.sum(), images)
        assert (logits.dtype, gradient.dtype) == (dtype, torch.float32)
        assert bool((gradient != 0).any())


def test_a_model_that_writes_into_its_images_is_asked_with_copies_that_have_gradients() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 3))
    images = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)
    kept = images.clone().requires_grad_()
    asked = adapted(model, images)
    assert torch.equal(images, kept)
    assert isinstance(asked, Adapted)
    asked(kept).sum().backward()
    assert kept.grad is not None
    assert torch.equal(kept.grad != 0, images > 0)
    assert torch.equal(kept, images)


def test_a_module_that_gives_logits_is_left_alone_and_so_is_one_that_fails() -> None:
    for module in (net().eval(), nn.Linear(7, 3)):
        assert adapted(module, IMAGES) is module
    assert isinstance(adapted(net().eval().half(), IMAGES.half()), nn.Sequential)
    assert isinstance(adapted(nn.Sequential(net(), nn.Linear(3, 1)).eval(), IMAGES), Adapted)


NET = net()


class Holder:
    def __init__(self) -> None:
        self.net = NET
        self.more = {"itself": self}

    def predict(self, images: Tensor) -> Tensor:
        return self.net(images)

    def __call__(self, images: Tensor) -> Tensor:
        return self.net(images)


def asks_a_global(images: Tensor) -> Tensor:
    return NET(images)


def closed_over(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: module(images)


NETS = [NET]


class Ensemble(nn.Module):
    """Its networks are in a list, so that ``eval()`` does not reach them."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = (NET,)

    def forward(self, images: Tensor) -> Tensor:
        return self.nets[0](images)


def asks(module: nn.Module, images: Tensor, *, more: Mapping[str, object] | None = None) -> Tensor:
    return module(images)


CALLABLES: dict[str, Any] = {
    "module": NET,
    "bound method": NET.forward,
    "function": asks_a_global,
    "lambda": closed_over(NET),
    "partial": functools.partial(closed_over(NET)),
    "object": Holder(),
    "argument of a partial": functools.partial(asks, NET),
    "keyword of a partial": functools.partial(asks, more={"net": [NET]}),
    "function of a function": lambda images: asks_a_global(images),
    "list": lambda images: NETS[0](images),
    "comprehension": lambda images: [NET(one) for one in images.split(2)],
    "default": lambda images, module=NET: module(images),
    "method of an object": Holder().predict,
}


@pytest.mark.parametrize("kind", CALLABLES)
def test_modules_behind_a_callable_are_found(kind: str) -> None:
    assert modules_of(CALLABLES[kind]) == [NET]
    assert list(Adapted(CALLABLES[kind]).parameters()) == list(NET.parameters())


def test_modules_that_a_module_keeps_in_a_list_are_switched_with_it() -> None:
    made = Ensemble()
    assert modules_of(made) == [made, NET]
    NET.train()
    with in_evaluation_mode(made):
        assert not NET.training
    assert NET.training
    kept = copied(made)
    freeze(kept)
    (inner,) = kept.nets
    assert not inner.training
    assert not any(parameter.requires_grad for parameter in inner.parameters())


@pytest.mark.parametrize("kind", CALLABLES)
@pytest.mark.parametrize("fails", [False, True])
def test_every_submodule_gets_its_mode_back_and_every_parameter_its_flag(kind: str, fails: bool) -> None:
    NET.train()
    NET[1].eval()
    NET[3].bias.requires_grad_(False)
    modes, flags = [part.training for part in NET.modules()], [one.requires_grad for one in NET.parameters()]
    state = {name: tensor.clone() for name, tensor in NET.state_dict().items()}
    try:
        with in_evaluation_mode(CALLABLES[kind]):
            assert not any(part.training for part in NET.modules())
            NET.requires_grad_(False)
            NET(IMAGES)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [part.training for part in NET.modules()] == modes
    assert [one.requires_grad for one in NET.parameters()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in NET.state_dict().items())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sequential(nn.LazyLinear(3)), "0.weight of Sequential has no shape yet: show it a batch of images"),
        (nn.LazyBatchNorm2d(affine=False), "running_mean of LazyBatchNorm2d has no shape yet"),
        (net().to("meta"), "0.weight of Sequential is on the device meta, without values: load its weights"),
    ],
)
def test_a_module_without_values_is_refused(module: nn.Module, said: str) -> None:
    with pytest.raises(RequestError, match=f"^{said}"), in_evaluation_mode(module):
        pass
    with pytest.raises(RequestError, match=f"^{said}"):
        freeze(module)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_frozen_module_of_torchscript_has_no_mode() -> None:
    frozen = torch.jit.freeze(torch.jit.script(net().eval()))
    with in_evaluation_mode(lambda images: frozen(images)):
        assert freeze(frozen)(IMAGES).shape == (2, 3)


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_gradients_can_be_taken_where_the_caller_has_switched_them_off(switch: Callable[[], Any]) -> None:
    with switch():
        model = net()
        with in_evaluation_mode(model):
            images = IMAGES.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(Adapted(model)(images).sum(), images)
        assert not torch.is_grad_enabled()
    assert bool((gradient != 0).any())
    assert differentiable(NET) is NET


def computed_weights(old: bool) -> nn.Module:
    with pytest.warns() if old else threading.Lock():
        norm = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
        model = nn.Sequential(nn.Flatten(), norm(nn.Linear(60, 3)))
    model(IMAGES)
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(computed_weights, old=True),
        functools.partial(computed_weights, old=False),
        lambda: torch.jit.script(net().eval()),
        lambda: torch.jit.trace(net().eval(), IMAGES),
        lambda: torch.jit.freeze(torch.jit.script(net().eval())),
        lambda: net().eval().half(),
        lambda: net().eval().double(),
    ],
    ids=["weight_norm", "parametrized", "script", "trace", "frozen", "half", "double"],
)
def test_a_copy_answers_alike_and_shares_nothing(make: Callable[[], nn.Module]) -> None:
    model = make()
    copy = copied(model)
    given = next((one.dtype for one in model.parameters()), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(copy(IMAGES), model(IMAGES.to(given)).float(), atol=2e-3, rtol=1e-2)
    assert all(one.is_leaf and one.dtype == torch.float32 for one in copy.parameters())
    assert {one.data_ptr() for one in copy.parameters()}.isdisjoint(one.data_ptr() for one in model.parameters())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (OrderedDict(), "got OrderedDict"),
        (None, "got NoneType"),
        (nn.Linear, "got the class Linear: make a torch.nn.Module of it first"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Adapted(model)


def test_a_model_is_called_as_its_function_or_its_class() -> None:
    assert [name_of(CALLABLES[kind]) for kind in CALLABLES] == [
        *("Sequential", "Sequential", "asks_a_global", "function", "function", "Holder"),
        *("asks", "asks", "function", "function", "function", "function", "predict"),
    ]
