"""Explanations after the fact, against the papers' definitions written out slowly."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import InputXGradient
from captum.attr import Occlusion as CaptumOcclusion
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng, generator
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.explanations.methods.gradcam import last_feature_maps
from robustbench_bcos.explanations.methods.lime import GRID, KERNEL_WIDTH, RIDGE, SAMPLES
from robustbench_bcos.explanations.methods.rise import draw_masks
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from tests.reference import attributions as twins

deeplift, gradcam, input_x_gradient, integrated_gradients, lime = (
    METHODS[name] for name in ("deeplift", "gradcam", "input_x_gradient", "integrated_gradients", "lime")
)
gradient, guided_backprop, occlusion, rise = (
    METHODS[name] for name in ("gradient", "guided_backprop", "occlusion", "rise")
)

CLASSES = 4
HEIGHT, WIDTH = 5, 6
TARGETS = torch.tensor([[3, 1], [0, 2]])
SOURCE = PerImageRng.of(0, [7, 9])

# float64; the rescale rule divides by changes that may be small.
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_images(count: int = 2, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def make_layers(nonlinearity: Callable[[Any], Any], slope: Callable[[Any], Any]) -> twins.Layers:
    sizes = [3 * HEIGHT * WIDTH, 8, 7, CLASSES]
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    matrices = [normal(*pair, seed=seed).numpy() / np.sqrt(pair[1]) for seed, pair in enumerate(pairs)]
    offsets = [0.3 * normal(size, seed=seed + 9).numpy() for seed, (size, _) in enumerate(pairs)]
    return twins.Layers(matrices, offsets, nonlinearity, slope)


SMOOTH = make_layers(np.tanh, lambda values: 1 - np.tanh(values) ** 2)
KINKED = make_layers(lambda values: np.maximum(values, 0), lambda values: 1.0 * (values > 0))


def as_module(layers: twins.Layers, nonlinearity: type[nn.Module]) -> nn.Sequential:
    modules: list[nn.Module] = [nn.Flatten()]
    for matrix, offset in zip(layers.matrices, layers.offsets, strict=True):
        layer = nn.Linear(*matrix.shape[::-1], dtype=torch.float64)
        layer.load_state_dict({"weight": torch.from_numpy(matrix), "bias": torch.from_numpy(offset)})
        modules += [layer, nonlinearity()]
    return frozen(nn.Sequential(*modules[:-1]))


def frozen(network: nn.Module) -> Any:
    return network.double().eval().requires_grad_(False)


def make_convolutional(nonlinearity: type[nn.Module] = nn.ReLU, classes: int = CLASSES) -> nn.Sequential:
    """Three coarse feature maps, each position with weights of its own in the head."""
    network = nn.Sequential(
        nn.Conv2d(3, 3, 3, stride=2, padding=1), nonlinearity(), nn.Flatten(), nn.Linear(3 * 3 * 3, classes)
    )
    for seed, tensor in enumerate(network.state_dict().values()):
        tensor.copy_(normal(*tensor.shape, seed=seed))
    return frozen(network)


def make_pooled(pooling: nn.Module) -> nn.Sequential:
    """Pooling right behind a nonlinearity whose inputs change from the baseline, as biases make them."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), pooling,
        nn.Flatten(), nn.LazyLinear(CLASSES),
    )  # fmt: skip
    network(make_images().float())
    for seed, tensor in enumerate(network.state_dict().values()):
        tensor.copy_(normal(*tensor.shape, seed=seed))
    return frozen(network)


def make_resnet(architecture: str, channels: int, **arguments: Any) -> nn.Module:
    network = build_architecture(architecture, in_channels=channels, classes=CLASSES, arguments=arguments)
    initialise(network, torch.Generator().manual_seed(0))
    return frozen(network)


def hooks(network: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


def test_input_x_gradient_is_the_one_of_captum() -> None:
    network, images = as_module(SMOOTH, nn.Tanh), make_images()
    found = input_x_gradient(network, images, TARGETS, SOURCE)
    for position in range(2):
        expected = InputXGradient(network).attribute(images.clone().requires_grad_(), target=TARGETS[:, position])
        torch.testing.assert_close(found.contributions[:, position], expected.sum(dim=1).detach(), **CLOSE)


class TestIntegratedGradients:
    def test_are_the_mean_gradient_on_the_path_times_the_image(self) -> None:
        images = make_images()
        found = integrated_gradients(as_module(SMOOTH, nn.Tanh), images, TARGETS, SOURCE)
        for i, t in np.ndindex(2, 2):
            # The midpoint rule is off by its step squared, and something of order 1 that the network decides.
            expected = twins.integrated_gradients(SMOOTH, images[i].numpy(), int(TARGETS[i, t]), points=2000)
            np.testing.assert_allclose(found.contributions[i, t].numpy(), expected.sum(axis=0), rtol=0, atol=1e-7)

    def test_sum_to_the_change_of_the_logit_from_zeros(self) -> None:
        network, images = as_module(SMOOTH, nn.Tanh), make_images()
        found = integrated_gradients(network, images, TARGETS, SOURCE)
        change = (network(images) - network(torch.zeros_like(images))).gather(1, TARGETS)
        # The Gauss-Legendre rule of 32 points is nearly exact on smooth paths.
        torch.testing.assert_close(found.contributions.sum(dim=(2, 3)), change, rtol=0, atol=1e-7)

    @pytest.mark.parametrize(("architecture", "channels"), [("resnet8", 3), ("bcos_resnet8", 6)])
    def test_sum_to_the_change_of_the_logit_of_a_deep_network(self, architecture: str, channels: int) -> None:
        network = make_resnet(architecture, channels)
        images = torch.cat([make_images(2, 8, 12)] * 2, dim=1)[:, :channels]
        found = integrated_gradients(network, images, TARGETS, SOURCE)
        change = (network(images) - network(torch.zeros_like(images))).gather(1, TARGETS)
        # The path crosses kinks of ReLU and of the modulus, at which no rule of few points is exact.
        torch.testing.assert_close(
            found.contributions.sum(dim=(2, 3)), change, rtol=0, atol=0.03 * change.abs().max().item()
        )

    def test_weights_are_the_mean_gradient(self) -> None:
        images = make_images()
        found = integrated_gradients(as_module(SMOOTH, nn.Tanh), images, TARGETS, SOURCE)
        total = twins.integrated_gradients(SMOOTH, images[1].numpy(), 2, points=2000) / images[1].numpy()
        np.testing.assert_allclose(found.weights[1, 1].numpy(), total, rtol=0, atol=1e-7)


class TestDeepLift:
    def test_follows_the_rescale_rule(self) -> None:
        images = make_images()
        found = deeplift(as_module(KINKED, nn.ReLU), images, TARGETS, SOURCE)
        for i, t in np.ndindex(2, 2):
            expected = twins.rescale_rule(KINKED, images[i].numpy(), int(TARGETS[i, t])).sum(axis=0)
            np.testing.assert_allclose(found.contributions[i, t].numpy(), expected, rtol=1e-7, atol=1e-10)

    @pytest.mark.parametrize(
        "make", [lambda: make_convolutional(), lambda: make_resnet("resnet8", 3), lambda: make_pooled(nn.MaxPool2d(2))]
    )
    def test_sums_to_the_change_of_the_logit_from_zeros(self, make: Callable[[], nn.Module]) -> None:
        network, images = make(), make_images()
        found = deeplift(network, images, TARGETS, SOURCE)
        change = (network(images) - network(torch.zeros_like(images))).gather(1, TARGETS)
        torch.testing.assert_close(found.contributions.sum(dim=(2, 3)), change, rtol=1e-6, atol=1e-8)

    def test_refuses_bcos_networks(self) -> None:
        network = make_resnet("bcos_resnet8", 6)
        with pytest.raises(RequestError, match="no rule for B-cos layers: choose dynamic_weights"):
            deeplift(network, torch.cat([make_images()] * 2, dim=1), None, SOURCE)

    def test_refuses_nonlinearities_that_are_no_modules(self) -> None:
        network = frozen(Functional())
        with pytest.raises(RequestError, match=r"does not see all nonlinearities.*: choose integrated_gradients"):
            deeplift(network, make_images(), None, SOURCE)
        assert hooks(network) == 0

    def test_refuses_pooling_whose_windows_overlap(self) -> None:
        network = make_pooled(nn.MaxPool2d(3, 2, 1))
        with pytest.raises(RequestError, match="pooling whose windows overlap"):
            deeplift(network, make_images(), None, SOURCE)
        assert hooks(network) == 0

    def test_refuses_a_module_that_is_used_twice(self) -> None:
        network = frozen(Twice())
        with pytest.raises(RequestError, match=r"deeplift .*this network.*: choose integrated_gradients"):
            deeplift(network, make_images(), None, SOURCE)
        assert hooks(network) == 0

    def test_refusal_of_an_image_does_not_depend_on_its_batch(self) -> None:
        network, images = frozen(Functional()), torch.cat([make_images(1), 1e6 * make_images(1)])
        images[1, :, 1:] = 0  # one row, on which the network is linear but huge
        with pytest.raises(RequestError, match="nonlinearities"):
            deeplift(network, images[:1], None, SOURCE)
        with pytest.raises(RequestError, match="nonlinearities"):
            deeplift(network, images, None, SOURCE)


class Functional(nn.Module):
    """A nonlinearity that hooks do not see, away from the first row of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * HEIGHT * WIDTH, CLASSES)
        for seed, tensor in enumerate(self.state_dict().values()):
            tensor.copy_(normal(*tensor.shape, seed=seed))

    def forward(self, images: Tensor) -> Tensor:
        rest = F.relu(images[:, :, 1:] - 0.5)
        return self.head(torch.cat([images[:, :, :1], rest], dim=2).flatten(1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.nonlinearity = nn.ReLU()
        self.head = nn.Linear(3 * HEIGHT * WIDTH, CLASSES)
        for seed, tensor in enumerate(self.state_dict().values()):
            tensor.copy_(normal(*tensor.shape, seed=seed))

    def forward(self, images: Tensor) -> Tensor:
        features = self.nonlinearity(self.convolution(images) - 1)
        return self.head(self.nonlinearity(self.convolution(features)).flatten(1))


class TestGradCam:
    @pytest.mark.parametrize("nonlinearity", [nn.ReLU, nn.Tanh])
    def test_is_the_positive_part_of_the_weighted_maps_enlarged(self, nonlinearity: type[nn.Module]) -> None:
        network, images = make_convolutional(nonlinearity), make_images()
        found = gradcam(network, images, TARGETS, SOURCE)
        assert found.weights is None
        maps = network[:2](images)
        assert maps.shape == (2, 3, 3, 3)
        for i, t in np.ndindex(2, 2):
            gradients = network[3].weight[TARGETS[i, t]].reshape(3, 3, 3)
            expected = twins.gradcam(maps[i].numpy(), gradients.numpy(), HEIGHT, WIDTH)
            np.testing.assert_allclose(found.contributions[i, t].numpy(), expected, rtol=1e-9, atol=1e-11)
        assert (found.contributions >= 0).all()
        assert found.contributions.any()

    def test_classes_of_an_image_share_a_forward_pass(self) -> None:
        network, images, passes = make_convolutional(nn.ReLU), make_images(), []
        for targets in TARGETS[:, :1], TARGETS:
            hook = network[0].register_forward_hook(lambda *_: passes.append(1))
            with torch.no_grad():
                gradcam(network, images, targets, SOURCE)
            hook.remove()
            assert len(passes) == 2  # One of them to find the feature maps.
            passes.clear()

    @pytest.mark.parametrize("network", [as_module(SMOOTH, nn.Tanh), nn.Sequential(nn.Flatten(), nn.Linear(90, 4))])
    def test_refuses_networks_without_feature_maps(self, network: nn.Module) -> None:
        with pytest.raises(RequestError, match=r"gradcam needs feature maps .*: choose integrated_gradients"):
            gradcam(frozen(network), make_images(), None, SOURCE)

    def test_refuses_maps_of_one_position(self) -> None:
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(5, CLASSES))
        with pytest.raises(RequestError, match="gradcam needs feature maps"):
            gradcam(frozen(network), make_images(), None, SOURCE)


class TestLastFeatureMaps:
    @pytest.mark.parametrize(
        ("architecture", "arguments"),
        [
            ("resnet8", {}),
            ("resnet20", {"norm": "none"}),
            ("bcos_resnet8", {}),
            ("bcos_resnet8", {"b": 1.0}),
            ("bcos_resnet8", {"max_out": 2}),
        ],
    )
    def test_are_those_of_the_last_stage_of_a_resnet(self, architecture: str, arguments: dict[str, Any]) -> None:
        channels = 6 if architecture.startswith("bcos") else 3
        network = make_resnet(architecture, channels, **arguments)
        images = torch.cat([make_images(2, 8, 12)] * 2, dim=1)[:, :channels]
        found = last_feature_maps(network, images)
        assert [name for name, module in network.named_modules() if module is found] == ["layer3"]
        assert hooks(network) == 0

    def test_are_not_maps_of_classes(self) -> None:
        network = nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        assert last_feature_maps(frozen(network), make_images()) is network[1]

    def test_are_not_pooled_to_one_position(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES))
        assert last_feature_maps(frozen(network), make_images()) is network[0]

    def test_leave_no_hook_when_the_network_fails(self) -> None:
        network = frozen(nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(7, CLASSES)))
        with pytest.raises(RuntimeError, match="shapes"):
            last_feature_maps(network, make_images())
        assert hooks(network) == 0


class TestLime:
    @pytest.mark.parametrize(("height", "width"), [(5, 6), (12, 19), (3, 11)])
    def test_is_the_ridge_regression_on_the_squares(self, height: int, width: int) -> None:
        network, images = linear_model(height, width), make_images(2, height, width)
        found = lime(network, images, TARGETS, SOURCE)
        squares = min(GRID, height) * min(GRID, width)
        for i, t in np.ndindex(2, 2):
            source = generator(0, SOURCE.indices[i], 0)
            present = torch.stack([torch.randint(2, (squares,), generator=source) for _ in range(SAMPLES)])
            target = int(TARGETS[i, t])

            def logit(image: twins.Array, target: int = target) -> float:
                return float(network(torch.from_numpy(image)[None])[0, target])

            expected = twins.lime(logit, images[i].numpy(), present.double().numpy(), GRID, KERNEL_WIDTH, RIDGE)
            # captum regresses in float32.
            np.testing.assert_allclose(
                found.contributions[i, t].numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max()
            )

    def test_recovers_the_coefficients_of_a_linear_model_up_to_the_penalty(self) -> None:
        network, images = linear_model(2, 3), make_images(2, 2, 3)
        found = lime(network, images, TARGETS, SOURCE)
        weights = network[1].weight.reshape(CLASSES, 3, 2, 3)
        truth = torch.einsum("itchw,ichw->ithw", weights[TARGETS], images)
        # 256 samples, of nearness 0.33 and variance 0.22, against a penalty of 1: coefficients shrink by about 5 %.
        torch.testing.assert_close(found.contributions, truth, rtol=0, atol=0.1 * truth.abs().max().item())
        assert found.contributions.norm() < truth.norm()

    def test_gives_each_pixel_of_a_square_the_same_share(self) -> None:
        found = lime(linear_model(12, 19), make_images(2, 12, 19), TARGETS, SOURCE)
        squares = twins.numbered(12, 19, GRID)
        assert len(np.unique(squares)) == 64
        for values in found.contributions.flatten(0, 1).numpy():
            assert [len(np.unique(values[squares == square])) for square in range(64)] == [1] * 64
            assert len(np.unique(values)) == 64

    def test_draws_belong_to_the_image_and_not_to_its_batch(self) -> None:
        network, images = as_module(SMOOTH, nn.Tanh), make_images(3)
        together = lime(network, images, None, PerImageRng.of(5, [4, 8, 6])).contributions
        backwards = lime(network, images.flip(0), None, PerImageRng.of(5, [6, 8, 4])).contributions.flip(0)
        torch.testing.assert_close(together, backwards, rtol=0, atol=1e-5)
        for position, index in enumerate([4, 8, 6]):
            alone = lime(network, images[position : position + 1], None, PerImageRng.of(5, [index])).contributions
            torch.testing.assert_close(together[position], alone[0], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("other", [PerImageRng.of(5, [5]), PerImageRng.of(6, [4])])
    def test_other_index_or_seed_gives_other_draws(self, other: PerImageRng) -> None:
        network, images = as_module(SMOOTH, nn.Tanh), make_images(1)
        first = lime(network, images, None, PerImageRng.of(5, [4])).contributions
        second = lime(network, images, None, other).contributions
        assert (first - second).abs().max() > 1e-4

    def test_global_randomness_is_neither_used_nor_spent(self) -> None:
        network, images = as_module(SMOOTH, nn.Tanh), make_images(1)
        state = torch.random.get_rng_state()
        numpy_state = np.random.get_state()[1].copy()
        lime(network, images, None, PerImageRng.of(5, [4]))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert np.array_equal(np.random.get_state()[1], numpy_state)


def linear_model(height: int, width: int) -> nn.Sequential:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, CLASSES))
    for seed, tensor in enumerate(network.state_dict().values()):
        tensor.copy_(normal(*tensor.shape, seed=seed))
    frozen(network)
    return network


def test_gradient_is_the_sum_of_the_gradient_over_channels() -> None:
    images = make_images()
    found = gradient(as_module(SMOOTH, nn.Tanh), images, TARGETS, SOURCE)
    for i, t in np.ndindex(2, 2):
        expected = SMOOTH.gradient(images[i].numpy(), int(TARGETS[i, t])).sum(axis=0)
        np.testing.assert_allclose(found.contributions[i, t].numpy(), expected, rtol=1e-9, atol=1e-11)


class TestGuidedBackprop:
    def test_passes_back_what_is_positive_through_active_units(self) -> None:
        images = make_images()
        found = guided_backprop(as_module(KINKED, nn.ReLU), images, TARGETS, SOURCE)
        for i, t in np.ndindex(2, 2):
            row = KINKED.matrices[-1][int(TARGETS[i, t])]
            for matrix, before in zip(KINKED.matrices[-2::-1], KINKED.before(images[i].numpy())[-2::-1], strict=True):
                row = (np.maximum(row, 0) * (before > 0)) @ matrix
            expected = row.reshape(3, HEIGHT, WIDTH).sum(axis=0)
            np.testing.assert_allclose(found.contributions[i, t].numpy(), expected, rtol=1e-9, atol=1e-11)

    def test_leaves_no_hooks_and_refuses_networks_without_relus(self) -> None:
        network = as_module(KINKED, nn.ReLU)
        guided_backprop(network, make_images(), TARGETS, SOURCE)
        assert hooks(network) == 0
        with pytest.raises(RequestError, match="has no such modules: choose gradient"):
            guided_backprop(as_module(SMOOTH, nn.Tanh), make_images(), TARGETS, SOURCE)


class TestOcclusion:
    @pytest.mark.parametrize(("height", "width"), [(5, 6), (14, 21)])
    def test_is_the_one_of_captum(self, height: int, width: int) -> None:
        network, images = linear_model(height, width), make_images(2, height, width)
        found = occlusion(network, images, TARGETS, SOURCE)
        tall, wide = max(1, round(height / 7)), max(1, round(width / 7))
        for position in range(2):
            expected = CaptumOcclusion(network).attribute(
                images,
                (3, tall, wide),
                strides=(3, max(1, tall // 2), max(1, wide // 2)),
                target=TARGETS[:, position],
                perturbations_per_eval=16,
            )
            # captum sums in float32.
            torch.testing.assert_close(
                found.contributions[:, position].float(), expected[:, 0].float(), rtol=1e-5, atol=1e-6
            )

    def test_windows_cover_an_image_to_its_last_pixel(self) -> None:
        network, images = linear_model(30, 31), make_images(1, 30, 31)
        assert (occlusion(network, images, TARGETS[:1], SOURCE).contributions != 0).all()


class TestRise:
    def test_is_the_mean_of_masks_by_the_probability_of_what_they_leave(self) -> None:
        network, images = linear_model(9, 10), make_images(2, 9, 10)
        found = rise(network, images, TARGETS, SOURCE)
        for i, t in np.ndindex(2, 2):
            source = generator(0, SOURCE.indices[i], 0)
            masks = torch.cat([draw_masks(50, 9, 10, source) for _ in range(10)]).double()
            probabilities = network(images[i] * masks[:, None]).softmax(dim=1)[:, TARGETS[i, t]]
            expected = sum(p * mask for p, mask in zip(probabilities, masks, strict=True)) / (500 * 0.1)
            torch.testing.assert_close(found.contributions[i, t], expected, **CLOSE)

    @pytest.mark.parametrize(("height", "width"), [(3, 5), (16, 16), (33, 40)])
    def test_masks_keep_a_tenth_of_every_position(self, height: int, width: int) -> None:
        masks = draw_masks(2000, height, width, generator(0, "masks"))
        assert masks.shape == (2000, height, width)
        assert masks.min() >= 0
        assert masks.max() <= 1
        # 2,000 draws of one in ten deviate by less than 0.007, four times of which is this.
        torch.testing.assert_close(masks.mean(dim=0), torch.full((height, width), 0.1), rtol=0, atol=0.03)


def test_a_loader_is_explained_as_its_images() -> None:
    network, images = as_module(SMOOTH, nn.Tanh), make_images()
    loader = DataLoader(TensorDataset(images, torch.zeros(2, dtype=torch.long)), batch_size=1)
    assert torch.equal(explain(network, loader).contributions, explain(network, images).contributions)


def test_logits_that_are_no_numbers_are_told_by_lime_in_a_sentence() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :CLASSES] / 0

    with pytest.raises(RequestError, match=r"^lime needs logits that are numbers, .*: mend the model, leave such "):
        explain(Broken(), make_images(), targets=0, method="lime")
