"""Certificates: against closed forms and NumPy twins, and against every attack that could refute them."""

import math
from collections.abc import Callable
from dataclasses import replace
from threading import Event, Thread

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.fab import FAB
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.certificates import bcos_map, bound
from robustbench_bcos.certificates.certifier import CannotBound, Certifier
from robustbench_bcos.certificates.operators import convolution_norm
from robustbench_bcos.model_zoo.architectures.layers import PooledClassMaps, PooledLinear
from robustbench_bcos.model_zoo.bcos.layers import BcosConv2d, BcosLinear, LogitLayer
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.encodings import AddInverse, Normalize
from tests.reference.certificates import convolution_matrix, global_radius, intervals, unit_constant

QUICKLY = [Phase.explicit, Phase.reuse, Phase.generate]

SHAPE = (3, 6, 6)
COUNT = 3

seeds = st.integers(0, 10_000)


def images_for(seed: int, count: int = COUNT) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(features))
        out += features
        return F.relu(out) / 2


def bcos(b: float, max_out: int = 1) -> nn.Sequential:
    return nn.Sequential(
        AddInverse(),
        BcosConv2d(6, 4, 3, 2, 1, b=b, max_out=max_out),
        BatchNormUncentred2d(4),
        BcosConv2d(4, 4, 2, groups=2, b=b, max_out=max_out),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
        BcosLinear(4, 3, b=b, max_out=max_out),
        LogitLayer(temperature=0.5, bias=-1.0),
    )


def conventional() -> nn.Sequential:
    return nn.Sequential(
        Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)),
        nn.Conv2d(3, 4, 3, 1, 1),
        Residual(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 4, 3, 2, 1, groups=2, dilation=1),
        nn.ReLU(),
        PooledLinear(4, 3),
    )


def pooled_class_maps() -> nn.Sequential:
    head = PooledClassMaps(4, 3, LogitLayer(temperature=None, bias=-1.0), b=2.0, max_out=1)
    return nn.Sequential(AddInverse(), BcosConv2d(6, 4, 3, b=2.0), head)


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "conventional": conventional,
    "pooled class maps": pooled_class_maps,
    "bcos b=1": lambda: bcos(1.0),
    "bcos b=1.25": lambda: bcos(1.25),
    "bcos b=2": lambda: bcos(2.0),
    "bcos b=2.5, maxout": lambda: bcos(2.5, 2),
}

every_network = pytest.mark.parametrize("network", NETWORKS)


def build(network: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = NETWORKS[network]()
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None
                assert module.running_mean is not None
                module.running_var.uniform_(0.2, 2)
                module.running_mean.normal_()
    return freeze(built)


def refutations(model: nn.Module, images: Tensor, radii: Tensor, norm: str, *, thoroughly: bool = False) -> int:
    """Images for which an attack finds something smaller than what is certified."""
    labels = model(images).argmax(dim=1)
    refuted = torch.zeros(len(images), dtype=torch.bool)

    def attacked(attack: AbstractAttack, within: float, rows: slice) -> None:
        found = attack(model, images[rows], labels[rows], norm, within).adversarials
        sizes = NORMS[norm].size((found - images[rows]).double())
        refuted[rows] |= (model(found).argmax(dim=1) != labels[rows]) & (sizes <= radii[rows])

    if thoroughly:
        # FAB looks for the smallest, whatever the radius.
        attacked(FAB(steps=5, targets=2), float(2 * radii.max()), slice(None))
    for image, radius in enumerate(radii.tolist()):
        for attack in (PGD(steps=10, loss="margin"), APGD(steps=10, loss="margin"))[: 1 + thoroughly]:
            attacked(attack, radius, slice(image, image + 1))
    return int(refuted.sum())


# Against attacks


@pytest.mark.parametrize(
    ("network", "norm"), [*((network, "l2") for network in NETWORKS), ("bcos b=2", "linf"), ("conventional", "l1")]
)
@given(seed=seeds)
@settings(max_examples=1, deadline=None, phases=QUICKLY)
def test_no_attack_finds_less_than_what_is_certified(network: str, norm: str, seed: int) -> None:
    model, images = build(network, seed), images_for(seed, 2)
    radii = Certifier(model).radii(images, model(images).argmax(dim=1), NORMS[norm])
    assert radii.isfinite().all()
    assert refutations(model, images, radii, norm, thoroughly=network == "bcos b=2") == 0


@every_network
@given(seed=seeds, radius=st.floats(1e-4, 0.3))
@settings(max_examples=2, deadline=None, phases=QUICKLY)
def test_whatever_is_in_the_ball_is_within_the_bounds(network: str, seed: int, radius: float) -> None:
    model, images = build(network, seed), images_for(seed)
    certifier = Certifier(model)
    for norm in ("l2", "linf"):
        bounds = certifier.bound(images, torch.full((COUNT,), radius).double(), NORMS[norm])
        generators = [torch.Generator().manual_seed(seed + image) for image in range(COUNT)]
        for scale in (0.0, 0.5, 1.0):
            draws = NORMS[norm].sample(SHAPE, scale * radius, generators)
            # The step along which the first logit grows most is the harder one.
            leaf = images.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
            steepest = scale * radius * NORMS[norm].steepest_ascent(gradient)
            for perturbation in (draws, steepest, -steepest):
                outputs = model((images + perturbation).clamp(0, 1)).double()
                assert (bounds.low <= outputs).all()
                assert (outputs <= bounds.high).all()
                moved = torch.linalg.vector_norm(outputs - bounds.centre, dim=1)
                assert (moved <= bounds.euclidean).all()


# What is wrong is caught


def linear_network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return freeze(nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 2)))


def test_a_constant_of_half_the_size_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = linear_network(1), images_for(1) * 0.2 + 0.4
    labels = model(images).argmax(dim=1)
    honest = Certifier(model).radii(images, labels, NORMS["l2"])
    assert refutations(model, images, honest, "l2") == 0
    honestly = bound.LinearMap.__call__
    # As of a layer that is said to move half as far as it does.
    monkeypatch.setattr(bound.LinearMap, "__call__", lambda self, features: halved(honestly(self, features)))
    wrong = Certifier(model).radii(images, labels, NORMS["l2"])
    assert refutations(model, images, wrong, "l2") == COUNT


def halved(of: bound.Bound) -> bound.Bound:
    """Half as wide as it should be."""
    low, high = (of.low + of.centre) / 2, (of.high + of.centre) / 2
    return replace(of, low=low, high=high, euclidean=of.euclidean / 2, rows=None)


def test_a_unit_that_is_said_to_be_flatter_than_it_is_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = BcosLinear(math.prod(SHAPE), 2, b=2.0)
    model = nn.Sequential(nn.Flatten(), layer)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.eye(math.prod(SHAPE))[:2])
    freeze(model)
    images = torch.zeros(1, *SHAPE)
    images.view(1, -1)[0, :3] = torch.tensor([0.5, 0.45, 0.9])
    labels = model(images).argmax(dim=1)
    honest = Certifier(model).radii(images, labels, NORMS["l2"])
    assert honest > 0
    assert refutations(model, images, honest, "l2") == 0
    right = bcos_map.squared_constant
    monkeypatch.setattr(bcos_map, "squared_constant", lambda b, squares: right(b, squares) / 100)
    assert refutations(model, images, Certifier(model).radii(images, labels, NORMS["l2"]), "l2") == 1


# Closed forms and twins


def exact(parameter: Tensor) -> NDArray[np.float64]:
    return parameter.double().numpy()


@given(seed=seeds)
@settings(max_examples=3, deadline=None, phases=QUICKLY)
def test_the_radius_of_a_plane_is_its_distance(seed: int) -> None:
    model, images = linear_network(seed), images_for(seed) * 0.2 + 0.4
    labels = model(images).argmax(dim=1)
    weight = model.get_parameter("1.weight").double()
    logits = model(images).double()
    margin = (logits.amax(dim=1) - logits.amin(dim=1)).numpy()
    difference = (weight[0] - weight[1]).numpy()
    for norm, dual in (("l2", 2), ("linf", 1)):
        exact = margin / np.linalg.norm(difference, ord=dual)
        certified = Certifier(model).radii(images, labels, NORMS[norm]).numpy()
        inside = exact < 0.4  # Else the pixel box is nearer.
        assert (certified <= exact)[inside].all()
        assert (certified >= 0.95 * exact - 1e-4)[inside].all()


@given(seed=seeds, epsilon=st.floats(0.001, 0.3))
@settings(max_examples=3, deadline=None, phases=QUICKLY)
def test_intervals_and_radii_are_no_looser_than_their_twins(seed: int, epsilon: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = freeze(nn.Sequential(nn.Flatten(), nn.Linear(108, 7), nn.ReLU(), nn.Linear(7, 4)))
    images = images_for(seed)
    labels = model(images).argmax(dim=1)
    weights = [
        (exact(model.get_parameter(f"{layer}.weight")), exact(model.get_parameter(f"{layer}.bias"))) for layer in (1, 3)
    ]
    bounds = Certifier(model).bound(images, torch.full((COUNT,), epsilon).double(), NORMS["linf"])
    radii = Certifier(model).radii(images, labels, NORMS["l2"])
    for image, label, low, high, radius in zip(images, labels, bounds.low, bounds.high, radii, strict=True):
        flat = image.double().numpy().ravel()
        least, most = intervals(flat, epsilon, weights)
        assert (low.numpy() >= least - 1e-4).all()
        assert (high.numpy() <= most + 1e-4).all()
        assert radius >= 0.95 * global_radius(flat, int(label), weights) - 1e-4


@pytest.mark.parametrize(("b", "constant"), [(1.0, 1.0), (2.0, 1.1547), (2.5, 1.228)])
def test_the_constant_of_a_unit(b: float, constant: float) -> None:
    squared = bcos_map.squared_constant(b, torch.ones((), dtype=torch.float64))
    assert math.sqrt(float(squared)) == pytest.approx(unit_constant(b), rel=1e-9)
    assert math.sqrt(float(squared)) == pytest.approx(constant, abs=1e-3)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [(3, 1, 1, 1, 1), (3, 2, 1, 1, 1), (5, 2, 0, 1, 2), (3, 1, 2, 2, 1), (2, 2, 0, 1, 1), (3, 3, 1, 2, 1)],
)
def test_the_norm_of_a_convolution_is_bounded_and_nearly_reached(
    kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    weight = np.random.default_rng(kernel + stride).normal(size=(4, 4 // groups, kernel, kernel))
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    exact = np.linalg.norm(convolution_matrix(weight, (14, 14), **settings), 2)
    found = convolution_norm(torch.from_numpy(weight), (stride,) * 2, (dilation,) * 2, groups)
    assert exact <= found <= 1.15 * exact


# What cannot be bounded


class Squares(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features * features


class Branches(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features if features.sum() > 0 else -features


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.GELU(), "1: GELU has no bound, so that nothing is certified"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), "1: padding with circular has no bound"),
        (nn.BatchNorm2d(3, track_running_stats=False), "1: its statistics are those of the batch"),
        (nn.Conv2d(3, 3, 1).half(), "1: its weights are torch.float16 and not float32"),
        (Squares(), "1: a product of two maps has no bound"),
        (Branches(), "1 cannot be traced"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_cannot_be_bounded_is_named_in_a_sentence(layer: nn.Module, said: str) -> None:
    model = freeze(nn.Sequential(nn.Identity(), layer, nn.Flatten(), nn.Linear(108, 2)))
    images = images_for(0)
    with pytest.raises(CannotBound) as caught:
        Certifier(model).radii(images, torch.zeros(COUNT).long(), NORMS["l2"])
    assert str(caught.value).startswith(said)


def test_a_layer_with_a_hook_computes_something_else() -> None:
    model = linear_network(0)
    model[1].register_forward_hook(lambda *_: None)
    with pytest.raises(CannotBound, match="1: Linear with a hook has no bound"):
        Certifier(model)


def test_what_is_overwritten_and_used_again_has_no_bound() -> None:
    class Twice(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            flat = images.flatten(1) - 0.5
            return F.relu(flat, inplace=True) + flat

    with pytest.raises(CannotBound, match="overwrites what is used elsewhere"):
        Certifier(Twice()).radii(images_for(0), torch.zeros(COUNT).long(), NORMS["l2"])


def test_a_network_that_answers_otherwise_than_it_was_traced_has_no_radius() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(108, 2)
            self.offset = 0.0

        def forward(self, images: Tensor) -> Tensor:
            answers: Tensor = self.linear(images.flatten(1)) + self.offset
            return answers

    model = freeze(Moody())
    certifier = Certifier(model)
    model.offset = 5.0
    assert certifier.radii(images_for(0), torch.zeros(COUNT).long(), NORMS["l2"]).isnan().all()


def test_a_norm_of_which_nothing_is_said_proves_nothing() -> None:
    own = type(NORMS["l2"])()
    own.longest, own.largest_change = lambda shape: math.inf, math.inf  # type: ignore[method-assign, misc]
    model, images = linear_network(2), images_for(2)
    assert (Certifier(model).radii(images, model(images).argmax(dim=1), own) == 0).all()


def test_radii_do_not_depend_on_the_batch() -> None:
    model, images = build("pooled class maps", 3), images_for(3, 3)
    labels = model(images).argmax(dim=1)
    certifier = Certifier(model)
    together = certifier.radii(images, labels, NORMS["l2"])
    alone = [certifier.radii(images[i : i + 1], labels[i : i + 1], NORMS["l2"]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=0)


def test_two_that_are_traced_at_once_leave_torch_as_it_was() -> None:
    """The one that begins first ends first, which would leave the other's patch of torch in place."""
    before, first_began, first_ended, second_began = nn.Module.__call__, Event(), Event(), Event()

    class Slow(nn.Module):
        def __init__(self, began: Event, awaited: Event) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.began, self.awaited = began, awaited

        def forward(self, images: Tensor) -> Tensor:
            self.began.set()
            self.awaited.wait(0.3)
            logits: Tensor = self.layer(images.flatten(1))
            return logits

    def first() -> None:
        Certifier(Slow(first_began, second_began).eval())
        first_ended.set()

    def second() -> None:
        first_began.wait(10)
        Certifier(Slow(second_began, first_ended).eval())

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert nn.Module.__call__ is before
