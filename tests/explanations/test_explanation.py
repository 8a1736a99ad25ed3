"""One call to explain any model: what all methods have in common, and what the caller may rely on."""

import copy
import importlib
from typing import Any

import bcos.models.resnet
import numpy as np
import pytest
import torch
from bcos.modules import norms as official_norms
from torch import Tensor, nn

import robustbench_bcos
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng, generator
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, explain, method_for
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encodings import AddInverse
from robustbench_bcos.model_zoo.models import load_model

CLASSES = 10
HEIGHT, WIDTH = 5, 8

MODELS = {name: load_model(name) for name in ("digits-natural", "digits-bcos-b2")}
REFUSED = {
    ("dynamic_weights", "digits-natural"),
    ("deeplift", "digits-bcos-b2"),
    ("guided_backprop", "digits-bcos-b2"),
}
SERVED = [(method, name) for method in METHODS for name in MODELS if (method, name) not in REFUSED]
WITHOUT_WEIGHTS = {"gradcam", "gradient", "guided_backprop", "lime", "occlusion", "rise"}

TARGETS = torch.tensor([[4, 1], [0, 9], [6, 6]])

# float64 models. Batches of other sizes are summed in another order, and captum regresses lime in float32.
CLOSE = {"rtol": 1e-6, "atol": 1e-7}

every_method = pytest.mark.parametrize(("method", "name"), SERVED)


def make_images(count: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand((count, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(3), dtype=dtype)


def in_float64(name: str) -> ImageClassifier:
    return copy.deepcopy(MODELS[name]).double()


def assert_same(first: Explanation, second: Explanation, **tolerance: float) -> None:
    for value, expected in zip(vars(first).values(), vars(second).values(), strict=True):
        assert (value is None) == (expected is None)
        if value is not None:
            torch.testing.assert_close(value, expected, **tolerance)


def test_every_method_serves_a_model() -> None:
    assert {method for method, _ in SERVED} == set(METHODS)


@every_method
class TestEveryMethod:
    @pytest.mark.parametrize("count", [1, 3])
    def test_explains_the_largest_logit_of_each_image(self, method: str, name: str, count: int) -> None:
        model, images = MODELS[name], make_images(count)
        explained = explain(model, images, method=method)
        assert explained.logits.shape == (count, CLASSES)
        assert explained.contributions.shape == (count, HEIGHT, WIDTH)
        assert torch.equal(explained.targets, model(images).argmax(dim=1))
        assert (explained.weights is None) == (method in WITHOUT_WEIGHTS)
        if explained.weights is not None:
            assert explained.weights.shape == (count, model.encoding.channels, HEIGHT, WIDTH)

    def test_explains_one_target_for_each_image(self, method: str, name: str) -> None:
        explained = explain(MODELS[name], make_images(), TARGETS[:, 0], method)
        assert explained.contributions.shape == (3, HEIGHT, WIDTH)
        assert torch.equal(explained.targets, TARGETS[:, 0])

    def test_explains_several_targets_as_one_by_one(self, method: str, name: str) -> None:
        model, images = in_float64(name), make_images(dtype=torch.float64)
        several = explain(model, images, TARGETS, method)
        assert several.contributions.shape == (3, 2, HEIGHT, WIDTH)
        assert torch.equal(several.targets, TARGETS)
        for position in range(2):
            single = explain(model, images, TARGETS[:, position], method)
            assert_same(several.of_target(position), single, **CLOSE)

    def test_explains_a_batch_as_its_images_one_by_one(self, method: str, name: str) -> None:
        model, images = in_float64(name), make_images(dtype=torch.float64)
        together = explain(model, images, TARGETS, method, rng=PerImageRng.of(0, [5, 2, 8]))
        for position, index in enumerate([5, 2, 8]):
            chosen = slice(position, position + 1)
            source = PerImageRng.of(0, [index])
            alone = explain(model, images[chosen], TARGETS[chosen], method, rng=source)
            part = {name: None if value is None else value[chosen] for name, value in vars(together).items()}
            assert_same(Explanation(**part), alone, **CLOSE)

    @pytest.mark.parametrize("targets", [None, torch.zeros(0, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long)])
    def test_explains_no_images_by_no_maps(self, method: str, name: str, targets: Tensor | None) -> None:
        explained = explain(MODELS[name], make_images(0), targets, method)
        several = targets is not None and targets.dim() == 2
        assert explained.contributions.shape == ((0, 2, HEIGHT, WIDTH) if several else (0, HEIGHT, WIDTH))
        assert explained.logits.shape == (0, CLASSES)

    def test_gives_finite_numbers_and_the_models_logits(self, method: str, name: str) -> None:
        model, images = MODELS[name], make_images()
        explained = explain(model, images, TARGETS, method)
        assert torch.equal(explained.logits, model(images))
        assert explained.contributions.isfinite().all()
        assert explained.contributions.flatten(2).any(dim=2).all() or method == "gradcam"
        for value in vars(explained).values():
            assert value is None or not value.requires_grad

    def test_contributions_are_weights_times_encoded_values(self, method: str, name: str) -> None:
        model, images = MODELS[name], make_images()
        explained = explain(model, images, TARGETS, method)
        if explained.weights is None:
            return
        expected = (explained.weights * model.encoding(images)[:, None]).sum(dim=2)
        # float32 sums of at most six products.
        torch.testing.assert_close(explained.contributions, expected, rtol=1e-5, atol=1e-6)

    def test_is_deterministic(self, method: str, name: str) -> None:
        first, second = (explain(MODELS[name], make_images(), TARGETS, method) for _ in range(2))
        assert_same(first, second, rtol=0, atol=0)

    def test_is_of_the_network_on_the_encoded_image(self, method: str, name: str) -> None:
        model, images = MODELS[name], make_images()
        encoded = model.encoding(images)
        assert_same(
            explain(model, images, TARGETS, method), explain(model.network, encoded, TARGETS, method), rtol=0, atol=0
        )

    @pytest.mark.parametrize("wants_gradients", [False, True])
    def test_leaves_images_targets_and_model_as_they_were(self, method: str, name: str, wants_gradients: bool) -> None:
        model = copy.deepcopy(MODELS[name]).requires_grad_(wants_gradients)
        images, targets = make_images().requires_grad_(wants_gradients), TARGETS.clone()
        holders = [images, *model.parameters()]
        if wants_gradients:
            for holder in holders:
                holder.grad = torch.ones_like(holder)
        states = {key: value.clone() for key, value in model.state_dict().items()}
        attributes = [set(vars(module)) for module in model.modules()]
        hooked, enabled = hooks(model), torch.is_grad_enabled()

        explain(model, images, targets, method)

        assert torch.equal(images, make_images())
        assert torch.equal(targets, TARGETS)
        assert all(torch.equal(value, states[key]) for key, value in model.state_dict().items())
        assert all(holder.requires_grad == wants_gradients for holder in holders)
        for holder in holders:
            assert torch.equal(holder.grad, torch.ones_like(holder)) if wants_gradients else holder.grad is None
        assert not any(module.training for module in model.modules())
        assert [set(vars(module)) for module in model.modules()] == attributes
        assert hooks(model) == hooked == 0
        assert torch.is_grad_enabled() == enabled

    def test_does_not_ask_for_gradients_to_be_enabled(self, method: str, name: str) -> None:
        expected = explain(MODELS[name], make_images(), TARGETS, method)
        with torch.no_grad():
            explained = explain(MODELS[name], make_images(), TARGETS, method)
            assert not torch.is_grad_enabled()
        assert_same(explained, expected, rtol=0, atol=0)

    def test_later_explanations_leave_earlier_ones_alone(self, method: str, name: str) -> None:
        images = make_images()
        first = explain(MODELS[name], images, TARGETS[:, 0], method)
        kept = first.contributions.clone()
        explain(MODELS[name], images, TARGETS[:, 1], method)
        assert torch.equal(first.contributions, kept)


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.parametrize(
    ("name", "method"), [("digits-natural", "input_x_gradient"), ("digits-bcos-b2", "dynamic_weights")]
)
def test_auto_is_the_linear_map_of_either_family(name: str, method: str) -> None:
    model, images = MODELS[name], make_images()
    assert method_for(model) == method
    assert_same(explain(model, images), explain(model, images, method=method), rtol=0, atol=0)


def test_method_asked_for_is_the_one_given() -> None:
    assert [method_for(MODELS["digits-bcos-b2"], method) for method in METHODS] == list(METHODS)
    gradient = explain(MODELS["digits-bcos-b2"], make_images(), method="input_x_gradient")
    assert not torch.allclose(gradient.contributions, explain(MODELS["digits-bcos-b2"], make_images()).contributions)


@pytest.mark.parametrize(("method", "name"), sorted(REFUSED))
def test_method_that_cannot_serve_a_model_names_one_that_can(method: str, name: str) -> None:
    with pytest.raises(RequestError, match=rf"^{method} [^\n]*: choose ") as refusal:
        explain(MODELS[name], make_images(), method=method)
    other = next(word for word in str(refusal.value).partition(": choose ")[2].replace(",", "").split())
    assert explain(MODELS[name], make_images(), method=other).contributions.isfinite().all()


def test_unknown_method_is_refused_with_the_nearest_one() -> None:
    expected = "^unknown explanation method 'dynamic_weight': did you mean 'dynamic_weights'. choose from [^\n]+$"
    with pytest.raises(RequestError, match=expected):
        explain(MODELS["digits-bcos-b2"], make_images(), method="dynamic_weight")


@pytest.mark.parametrize(
    ("targets", "wrong"),
    [
        (torch.tensor([1, 2, 10]), 10),
        (torch.tensor([1, -1, 3]), -1),
        (torch.tensor([[1, 2], [3, 99], [4, 5]]), 99),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_target_the_model_has_no_logit_for_is_refused(name: str, targets: Tensor, wrong: int) -> None:
    with pytest.raises(RequestError, match=f"^target {wrong} is not a class of this model: choose from 0 to 9$"):
        explain(MODELS[name], make_images(), targets)


@pytest.mark.parametrize("targets", [torch.tensor([1]), torch.tensor([1, 2, 3, 4]), torch.tensor([[1, 2, 3]])])
def test_targets_for_another_number_of_images_are_refused(targets: Tensor) -> None:
    expected = f"^targets are for {len(targets)} images and there are 3: give a row for each$"
    with pytest.raises(RequestError, match=expected):
        explain(MODELS["digits-natural"], make_images(), targets)


@pytest.mark.parametrize("name", MODELS)
def test_first_and_last_class_can_be_explained(name: str) -> None:
    explained = explain(MODELS[name], make_images(), torch.tensor([0, 9, 0]))
    assert explained.targets.tolist() == [0, 9, 0]


@pytest.mark.parametrize(
    ("targets", "same"),
    [
        (3, torch.tensor([3, 3, 3])),
        (torch.tensor(3), torch.tensor([3, 3, 3])),
        ([4, 1, 3], torch.tensor([4, 1, 3])),
        ([[4, 1], [0, 9], [6, 6]], TARGETS),
        (torch.tensor([4, 1, 3], dtype=torch.uint8), torch.tensor([4, 1, 3])),
    ],
)
def test_targets_may_be_numbers(targets: Any, same: Tensor) -> None:
    model, images = MODELS["digits-bcos-b2"], make_images()
    assert_same(explain(model, images, targets), explain(model, images, same), rtol=0, atol=0)


@pytest.mark.parametrize("targets", [torch.rand(3), True, torch.zeros(3, 1, 1, dtype=torch.long)])
def test_targets_that_are_no_classes_are_refused(targets: Any) -> None:
    with pytest.raises(RequestError, match=r"^targets must be class numbers, got [^\n]+: give one for all images, "):
        explain(MODELS["digits-natural"], make_images(), targets)


def test_the_name_that_captum_has_for_targets_is_answered_by_ours() -> None:
    with pytest.raises(RequestError, match=r"^explain has no parameter target: give targets=3$"):
        explain(MODELS["digits-natural"], make_images(), target=3)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), r"got \(2, 8, 8, 3\): put channels first"),
        (torch.zeros(3, 8, 8), r"got \(3, 8, 8\): of a single image, make a batch"),
        (torch.full((2, 3, 8, 8), 200.0), r"values in \[0, 1\], got 200 to 200: divide them by 255"),
        (None, "must be in memory, got NoneType"),
    ],
)
def test_images_that_are_none_are_refused_with_the_remedy(images: Any, said: str) -> None:
    with pytest.raises(RequestError, match=rf"^images [^\n]*{said}[^\n]*$"):
        explain(MODELS["digits-natural"], images)


def test_bytes_and_arrays_are_explained_as_the_images_that_they_are() -> None:
    pixels = (255 * make_images()).byte()
    expected = explain(MODELS["digits-natural"], pixels / 255)
    for given in (pixels, pixels.numpy(), (pixels / 255).numpy()):
        assert torch.equal(explain(MODELS["digits-natural"], given).contributions, expected.contributions)


class WithoutGradients(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return MODELS["digits-natural"](images.detach())


@pytest.mark.parametrize("method", sorted(method for method, name in SERVED if name == "digits-natural"))
def test_only_methods_that_do_not_differentiate_explain_a_model_without_gradients(method: str) -> None:
    if METHODS[method].differentiates:
        with pytest.raises(RequestError, match=rf"^{method} [^\n]*: choose "):
            explain(WithoutGradients(), make_images(), method=method)
    else:
        assert explain(WithoutGradients(), make_images(), method=method).contributions.any()


def test_own_module_is_explained_on_the_images_themselves() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * HEIGHT * WIDTH, 5))
    for seed, tensor in enumerate(network.state_dict().values()):
        tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)))
    explained = explain(network.eval(), make_images(), torch.tensor([4, 1, 3]))
    assert torch.equal(explained.weights, network[1].weight.detach()[[4, 1, 3]].reshape(3, 3, HEIGHT, WIDTH))


def test_draws_are_those_of_the_position_in_the_batch_unless_told() -> None:
    model, images = MODELS["digits-natural"], make_images()
    plain = explain(model, images, method="lime")
    same = explain(model, images, method="lime", rng=PerImageRng.of(0, [0, 1, 2]))
    other = explain(model, images, method="lime", rng=PerImageRng.of(1, [0, 1, 2]))
    assert torch.equal(plain.contributions, same.contributions)
    assert not torch.allclose(plain.contributions, other.contributions)


def test_explain_is_public_even_when_its_module_was_imported_first() -> None:
    module = importlib.import_module("robustbench_bcos.explanations.explanation")
    assert robustbench_bcos.explain is module.explain is explain
    assert "explain" in robustbench_bcos.__all__


@pytest.mark.parametrize(
    ("norm", "official"),
    [
        ("batch-uncentred", official_norms.BatchNormUncentered2d),
        ("layer-uncentred", official_norms.GNLayerNormUncentered2d),
    ],
)
@pytest.mark.parametrize("index", [None, 3])
def test_explanations_of_a_batch_equal_the_official_ones_one_by_one(
    norm: str, official: type[nn.Module], index: int | None
) -> None:
    network = build_architecture("bcos_resnet20", in_channels=6, classes=7, arguments={"norm": norm}).double()
    for seed, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            tensor.copy_(values.abs() + 0.1 if name.endswith("running_var") else values)
    network.eval().requires_grad_(False)
    peer = bcos.models.resnet.cifar10_resnet20(num_classes=7, norm_layer=official_norms.NoBias(official))
    peer.double().eval().load_state_dict(network.state_dict())
    images = make_images(dtype=torch.float64)
    encoded = torch.cat([images, 1 - images], dim=1)
    explained = explain(network, encoded, None if index is None else torch.full((3,), index))
    for position, image in enumerate(encoded.split(1)):
        expected = peer.explain(image.clone().requires_grad_(), idx=index)
        assert explained.targets[position] == expected["explained_class_idx"]
        assert explained.logits[position].argmax() == expected["prediction"]
        weights = expected["dynamic_linear_weights"][0]
        contributions = expected["contribution_map"][0].detach()
        # float64 through twenty layers, relative to the largest.
        torch.testing.assert_close(
            explained.weights[position], weights, rtol=1e-7, atol=1e-9 * weights.abs().max().item()
        )
        torch.testing.assert_close(
            explained.contributions[position], contributions, rtol=1e-7, atol=1e-9 * contributions.abs().max().item()
        )


@pytest.mark.filterwarnings("ignore:Input tensor did not require grad:UserWarning")  # the official explanation's remark
def test_an_official_network_is_explained_as_it_explains_itself() -> None:
    peer = bcos.models.resnet.cifar10_resnet20(
        num_classes=4, norm_layer=official_norms.NoBias(official_norms.BatchNormUncentered2d)
    )
    peer = peer.double().eval().requires_grad_(False)
    images = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    explained = explain(ImageClassifier(AddInverse(), peer), images)
    encoded = torch.cat([images, 1 - images], dim=1)
    for position, image in enumerate(encoded.split(1)):
        expected = peer.explain(image)
        torch.testing.assert_close(explained.weights[position], expected["dynamic_linear_weights"][0])
        assert explained.targets[position] == expected["prediction"]
    gradient = explain(peer, encoded, method="input_x_gradient").weights
    assert not torch.allclose(gradient, explained.weights)
    # Its switches are back where they were, also where it was on.
    switches = [layer for layer in peer.modules() if hasattr(layer, "set_explanation_mode")]
    assert not any(layer.is_in_explanation_mode for layer in switches)
    switches[0].set_explanation_mode(True)
    explain(peer, encoded)
    assert [layer.is_in_explanation_mode for layer in switches] == [True] + [False] * (len(switches) - 1)


def test_a_compiled_model_is_explained_as_what_was_compiled() -> None:
    model, images = load_model("digits-bcos-b2"), torch.rand((2, 3, 8, 8), generator=generator(0))
    compiled = torch.compile(model, backend="aot_eager")
    found = explain(compiled, images, [[0, 1], [2, 3]])
    assert torch.equal(found.contributions, explain(model, images, [[0, 1], [2, 3]]).contributions)
