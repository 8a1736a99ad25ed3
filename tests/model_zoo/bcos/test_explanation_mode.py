"""When explanation mode is on and when it is off, seen by the gradient it gives."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.model_zoo.bcos.explanation_mode import DynamicLayer, explanation_mode
from robustbench_bcos.model_zoo.bcos.layers import BcosConv2d
from robustbench_bcos.model_zoo.bcos.norms import NORM_LAYERS, make_norm


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_model(seed: int = 0) -> nn.Sequential:
    """Two B-cos convolutions with a norm between whose variance is taken from the image."""
    model = nn.Sequential(BcosConv2d(3, 4, 3), make_norm("layer-uncentred", "no-bias", 4), BcosConv2d(4, 2, b=1.5))
    for number, parameter in enumerate(model.double().parameters()):
        parameter.data = normal(*parameter.shape, seed=10 * seed + number)
    return model


def respond(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Output and gradient at one fixed input."""
    leaf = normal(2, 3, 5, 6, seed=7).requires_grad_()
    out = model(leaf)
    (gradient,) = torch.autograd.grad((out * normal(*out.shape, seed=8)).sum(), leaf)
    return out.detach(), gradient


def explains(model: nn.Module) -> bool:
    """Whether the gradient is the one of explanation mode, after a check that it is one of the two."""
    with explanation_mode(model):
        explained = respond(model)[1]
    found = threaded(lambda: respond(model)[1])  # no mode of this thread is on in another
    now = respond(model)[1]
    assert not torch.allclose(explained, found)
    assert torch.equal(now, explained) != torch.equal(now, found)
    return torch.equal(now, explained)


def threaded(function: Callable[[], Tensor]) -> Tensor:
    results: list[Tensor] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_mode_is_off_unless_asked_for() -> None:
    assert not explains(make_model())


def test_mode_is_on_inside_the_with_and_off_after_it() -> None:
    model = make_model()
    with explanation_mode(model):
        assert explains(model)
    assert not explains(model)


def test_explained_gradient_treats_every_scale_as_a_constant() -> None:
    model, x = make_model(), normal(2, 3, 5, 6, seed=7)
    first, norm, last = model
    filters = [conv.linear.weight.detach() for conv in (first, last)]
    units = [weight / torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True) for weight in filters]
    with torch.no_grad():
        after_first = first(x)
        after_norm = norm(after_first)
        out = last(after_norm)
        scales = (
            after_first / nn.functional.conv2d(x, units[0]),
            after_norm / after_first,
            out / nn.functional.conv2d(after_norm, units[1]),
        )
    leaf = x.clone().requires_grad_()
    linear = nn.functional.conv2d(leaf, units[0]) * scales[0] * scales[1]
    linear = nn.functional.conv2d(linear, units[1]) * scales[2]
    (expected,) = torch.autograd.grad((linear * normal(*out.shape, seed=8)).sum(), leaf)
    with explanation_mode(model):
        torch.testing.assert_close(respond(model)[1], expected, rtol=1e-9, atol=1e-12)


def test_mode_changes_no_output() -> None:
    # Frozen, as models are explained: filters that are trained have other formulas, and other last bits.
    model = make_model().requires_grad_(False)
    before = respond(model)[0]
    with explanation_mode(model):
        assert torch.equal(respond(model)[0], before)


@pytest.mark.parametrize("name", NORM_LAYERS)
def test_mode_changes_no_output_of_a_norm(name: str) -> None:
    norm = make_norm(name, "full", 4).double().eval()
    before = norm(normal(2, 4, 5, 6))
    with explanation_mode(norm):
        after = norm(normal(2, 4, 5, 6))
    # A centred position norm is fused outside the mode, and rounds differently.
    tolerance = 1e-14 if name == "position" else 0
    torch.testing.assert_close(after, before, rtol=tolerance, atol=tolerance)


def test_leaving_an_inner_mode_keeps_the_outer_one_on() -> None:
    model = make_model()
    with explanation_mode(model):
        with explanation_mode(model):
            assert explains(model)
        assert explains(model)
    assert not explains(model)


def test_leaving_the_mode_of_a_part_keeps_that_of_the_whole_on() -> None:
    model = make_model()
    with explanation_mode(model):
        with explanation_mode(model[0]):
            assert explains(model)
        assert explains(model)


def test_mode_of_a_part_explains_that_part_alone() -> None:
    model = make_model()
    with explanation_mode(model[0]):
        assert explains(model[0])
        assert [layer.explaining for layer in dynamic_layers(model)] == [True, False, False]


def test_mode_does_not_touch_another_model() -> None:
    model, other = make_model(), make_model(seed=1)
    with explanation_mode(model):
        assert not explains(other)
        with explanation_mode(other):
            assert explains(model)
            assert explains(other)
        assert explains(model)
        assert not explains(other)


def test_mode_is_off_after_an_exception() -> None:
    model = make_model()
    with pytest.raises(ZeroDivisionError), explanation_mode(model):
        raise ZeroDivisionError
    assert not explains(model)


def test_exception_in_an_inner_mode_keeps_the_outer_one_on() -> None:
    model = make_model()
    with explanation_mode(model):
        with pytest.raises(ZeroDivisionError), explanation_mode(model):
            raise ZeroDivisionError
        assert explains(model)


def test_mode_covers_a_head_swapped_in_before_it_was_entered() -> None:
    model = make_model()
    with explanation_mode(model):
        assert explains(model)
    model[2] = make_model(seed=2)[2]
    with explanation_mode(model):
        assert explains(model)
        assert all(layer.explaining for layer in dynamic_layers(model))
    assert not explains(model)


def test_mode_of_one_thread_is_not_on_in_another() -> None:
    model = make_model()
    ordinary = respond(model)[1]
    with explanation_mode(model):
        assert torch.equal(threaded(lambda: respond(model)[1]), ordinary)


def test_mode_that_another_thread_is_in_is_not_on_here() -> None:
    model = make_model()
    ordinary = respond(model)[1]
    entered, done = threading.Event(), threading.Event()

    def explain() -> None:
        with explanation_mode(model):
            entered.set()
            done.wait(timeout=10)

    thread = threading.Thread(target=explain)
    thread.start()
    assert entered.wait(timeout=10)
    here = respond(model)[1]
    done.set()
    thread.join()
    assert torch.equal(here, ordinary)


def test_gradient_is_that_of_the_mode_the_forward_pass_was_made_in() -> None:
    model, leaf = make_model(), normal(2, 3, 5, 6, seed=7).requires_grad_()
    with explanation_mode(model):
        explained = respond(model)[1]
        out = model(leaf)
    (gradient,) = torch.autograd.grad((out * normal(*out.shape, seed=8)).sum(), leaf)
    assert torch.equal(gradient, explained)


def test_model_without_dynamic_layers_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    before = respond(model)
    with explanation_mode(model):
        torch.testing.assert_close(respond(model), before, rtol=0, atol=0)


def dynamic_layers(model: nn.Module) -> list[DynamicLayer]:
    return [module for module in model.modules() if isinstance(module, DynamicLayer)]
