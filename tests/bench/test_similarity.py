"""What is compared with what: full attacks, noise of exactly their size, and the maps of both."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.rows import COMPARISONS, EXPLAINED_CLASSES
from robustbench_bcos.bench.similarity import (
    compare_explanations,
    explain_classes,
    make_views,
    noise_of_size,
)
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.bench.trial import Judged, attack_and_judge
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng, generator
from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.explanations.explanation import Explanation, explain
from robustbench_bcos.explanations.similarity import MEASURES
from robustbench_bcos.model_zoo.encodings import AddInverse
from tests.attacks.conftest import TanhNet, draw_twin
from tests.reference import pgd as reference
from tests.reference.losses import VALUES

SHAPE = (3, 5, 4)
INDICES = (41, 7, 1796, 3, 20, 8)

every_norm = pytest.mark.parametrize("norm", NORMS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def moved(images: Tensor, sizes: float | Tensor, norm: str, *, seed: int = 0, indices: Any = INDICES) -> Tensor:
    wanted = sizes if isinstance(sizes, Tensor) else torch.full((len(images),), sizes, dtype=torch.float64)
    return noise_of_size(images, wanted, Threat.of(norm, 1.0), PerImageRng.of(seed, indices))


def directions(seed: int = 0, stream: int = -1) -> Tensor:
    """The normal draw of each image."""
    return torch.stack([torch.randn(SHAPE, generator=generator(seed, index, stream)) for index in INDICES])


# Noise of the same size


@given(
    norm=st.sampled_from(list(NORMS)),
    sizes=st.lists(st.floats(0, 0.5), min_size=6, max_size=6),
    seed=st.integers(0, 2**40),
    contrast=st.floats(0.1, 20),
)
def test_noise_has_exactly_the_size_that_is_asked_for(
    norm: str, sizes: list[float], seed: int, contrast: float
) -> None:
    # Much contrast leaves little but black and white, from which every other pixel's move has to be mirrored.
    images = (contrast * (draw(6, *SHAPE, seed=1) - 0.5) + 0.5).clamp(0, 1)
    noisy = moved(images, torch.tensor(sizes, dtype=torch.float64), norm, seed=seed)
    assert noisy.dtype == images.dtype
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    found = NORMS[norm].size(noisy.double() - images.double())
    # The direction has norm 1 but for float32's rounding, and each of 60 pixels below 1 is rounded once more.
    rounding = float(NORMS[norm].size(torch.full((1, *SHAPE), 2.0**-24)))
    tolerance = 1e-6 * np.array(sizes) + rounding
    assert (np.abs(found.numpy() - sizes) <= tolerance).all()


def test_noise_is_in_the_direction_of_a_normal_draw() -> None:
    images = torch.full((6, *SHAPE), 0.5)
    normal = directions(seed=4)
    flat = normal.flatten(1)
    for norm, direction in (
        ("l1", flat / flat.abs().sum(dim=1, keepdim=True)),
        ("l2", flat / flat.norm(dim=1, keepdim=True)),
        ("linf", flat.sign()),
    ):
        expected = images + 0.4 * direction.view_as(images)
        # Half a pixel range and less, rounded to float32.
        torch.testing.assert_close(moved(images, 0.4, norm, seed=4), expected, rtol=0, atol=1e-7)


@every_norm
@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_what_would_leave_the_pixel_box_is_mirrored_and_not_cut(norm: str, colour: float) -> None:
    grey, image = torch.full((6, *SHAPE), 0.5), torch.full((6, *SHAPE), colour)
    inside, at_the_border = moved(grey, 0.4, norm) - grey, moved(image, 0.4, norm) - image
    torch.testing.assert_close(at_the_border.abs(), inside.abs(), rtol=0, atol=1e-7)
    assert ((at_the_border >= 0) if colour == 0 else (at_the_border <= 0)).all()


@every_norm
def test_noise_belongs_to_the_seed_and_the_image_and_not_to_the_batch(norm: str) -> None:
    images, sizes = draw(6, *SHAPE), torch.linspace(0.1, 0.5, 6, dtype=torch.float64)
    whole = moved(images, sizes, norm)
    order = [4, 1, 5]
    part = moved(images[order], sizes[order], norm, indices=[INDICES[i] for i in order])
    assert torch.equal(part, whole[order])
    assert not torch.equal(moved(images, sizes, norm, seed=1), whole)
    grey = torch.full_like(images, 0.5)
    deltas = moved(grey, 0.4, norm) - grey
    assert len({tuple(delta.flatten().tolist()) for delta in deltas}) == 6


@pytest.mark.parametrize("restart", range(4))
def test_noise_is_another_draw_than_a_random_start(restart: int) -> None:
    images = torch.full((6, *SHAPE), 0.5)
    source = PerImageRng.of(0, INDICES)
    starts = NORMS["l2"].sample(SHAPE, 0.4, source(restart))
    cosines = torch.cosine_similarity(starts.flatten(1), (moved(images, 0.4, "l2") - images).flatten(1), dim=1)
    # Of independent directions in 60 dimensions: five standard deviations.
    assert cosines.abs().max() < 5 / 60**0.5


@every_norm
def test_a_size_of_zero_is_the_image_itself(norm: str) -> None:
    images = draw(6, *SHAPE)
    assert torch.equal(moved(images, 0.0, norm), images)


@every_norm
def test_noise_of_more_than_half_the_pixel_range_stays_in_the_pixel_box(norm: str) -> None:
    noisy = moved(draw(6, *SHAPE), 0.9 * NORMS[norm].diameter(SHAPE), norm)
    assert noisy.min() >= 0
    assert noisy.max() <= 1


# Both explained classes


class Linear(nn.Module):
    """Logits whose contributions are known, image times weight; they are no numbers for a white first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = draw(7, *SHAPE, seed=3) - 0.5

    def forward(self, images: Tensor) -> Tensor:
        sound = images[:, :, 0, 0].amin(dim=1, keepdim=True) < 1
        return torch.einsum("nchw,kchw->nk", images, self.weight) * torch.where(sound, 1.0, torch.nan)


def both_classes(images: Tensor) -> Explanation:
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    return explain_classes(Linear(), images, labels, "input_x_gradient", PerImageRng.of(0, INDICES))


def test_each_image_is_explained_for_its_label_and_for_what_is_predicted() -> None:
    model, images, labels = Linear(), draw(6, *SHAPE), torch.tensor([0, 1, 2, 3, 4, 5])
    predicted = model(images).argmax(dim=1)
    assert (predicted != labels).any()
    both = both_classes(images)
    torch.testing.assert_close(both.logits, model(images))
    by_class = {"true": labels, "predicted": predicted}
    assert tuple(by_class) == EXPLAINED_CLASSES
    for position, targets in enumerate(by_class.values()):
        found = both.of_target(position)
        assert torch.equal(found.targets, targets)
        torch.testing.assert_close(found.weights, model.weight[targets])
        torch.testing.assert_close(found.contributions, (model.weight[targets] * images).sum(dim=1))


def test_what_is_explained_is_what_the_public_function_explains() -> None:
    images = draw(6, *SHAPE)
    both, alone = both_classes(images), explain(Linear(), images)
    assert vars(alone).keys() == vars(both).keys()
    for found, expected in zip(vars(both.of_target(1)).values(), vars(alone).values(), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_method_without_weights_has_none() -> None:
    images, labels = draw(2, *SHAPE), torch.tensor([0, 1])
    both = explain_classes(Linear(), images, labels, "lime", PerImageRng.of(0, INDICES[:2]))
    assert both.weights is None
    assert both.of_target(0).weights is None


def test_logits_that_are_no_numbers_have_no_class_and_no_measure() -> None:
    images = draw(6, *SHAPE)
    images[2, :, 0, 0] = 1
    clean, broken = both_classes(draw(6, *SHAPE)), both_classes(images)
    assert predicted_classes(broken.logits)[2] == -1
    assert predicted_classes(clean.logits)[2] >= 0
    for similarity in compare_explanations(clean, broken, "attack"):
        assert similarity.changed[2] == 1
        for name, values in similarity.values.items():
            assert values[2].isnan()
            # SSIM is not defined for images of so few pixels.
            assert values[[0, 1, 3, 4, 5]].isfinite().all() or name == "ssim"


# The full attack


def problem() -> tuple[Any, TanhNet, Tensor, Tensor]:
    """A network with its NumPy twin, in float64, with images of which the last is misclassified."""
    twin = draw_twin(np.random.default_rng(1), values=3 * 5 * 4)
    images = torch.from_numpy(np.random.default_rng(2).integers(-60, 316, size=(9, *SHAPE)).clip(0, 255) / 255)
    net = TanhNet(twin)
    labels = net(images).argmax(dim=1)
    labels[-1] = (labels[-1] + 1) % 7
    return twin, net, images, labels


def attack_in_full(
    attack: AbstractAttack, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: PerImageRng
) -> Judged:
    target = AttackTarget(
        classifier=net,
        attack_model=net,
        images=images,
        labels=labels,
        goals=labels,
        threat=threat,
        criterion=make_criterion("misclassified"),
        rng=rng,
    )
    return attack_and_judge(attack.in_full(), target, subject="the cell")


@pytest.mark.parametrize("loss", ["bce", "ce", "margin"])
@pytest.mark.parametrize(("norm", "eps"), [("l2", "0.2"), ("linf", "0.03")])
@pytest.mark.parametrize("select", ["first_success", "last"])
def test_the_attack_takes_all_its_steps_and_the_iterate_of_highest_loss(
    norm: str, eps: str, loss: str, select: Any
) -> None:
    twin, net, images, labels = problem()
    attack, rng = PGD(steps=6, loss=loss, select=select), PerImageRng.of(0, range(9))
    attacked = attack_in_full(attack, net, images, labels, Threat.of(norm, eps), rng)
    threat = {"norm": norm, "epsilon": float(eps), "step_size": 2.5 * float(eps) / 6, "steps": 6, "loss": loss}
    early = 0
    for image, label, found, size in zip(
        images, labels.tolist(), attacked.adversarials, attacked.verdicts.sizes, strict=True
    ):
        path = reference.iterates(twin, image.numpy(), label, **threat)
        expected = reference.adversarial(twin, path, label, loss=loss, select="best_loss")
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)  # sums in another order, over 6 steps
        changes = np.abs(expected - image.numpy())
        assert float(size) == pytest.approx(changes.max() if norm == "linf" else np.sqrt(np.sum(changes**2)), abs=1e-9)
        early += np.argmax(twin.logits(path[3])) != label
    # Otherwise an attack that stops at the first that is misclassified would do as well.
    assert early > 1


@pytest.mark.parametrize("restarts", [1, 2, 4])
def test_of_all_restarts_that_were_needed_the_iterate_of_highest_loss_is_taken(restarts: int) -> None:
    twin, net, images, labels = problem()
    rng = PerImageRng.of(0, range(9))
    attacked = attack_in_full(PGD(steps=4, restarts=restarts), net, images, labels, Threat.of("l2", "0.05"), rng)
    robust = 0
    for place, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        best = []
        for restart in range(restarts):
            noise = NORMS["l2"].sample(SHAPE, 0.05, rng(restart))[place].double().numpy()
            start = np.clip(image + noise, 0, 1) if restart > 0 else image
            path = iterates_from(twin, image, start, label, epsilon=0.05, steps=4)
            best.append(reference.adversarial(twin, path, label, loss="ce", select="best_loss"))
            if np.argmax(twin.logits(best[-1])) != label:
                # It is broken: no restart is needed any more.
                best = best[-1:]
                break
        else:
            robust += 1
        expected = max(best, key=lambda iterate: VALUES["ce"](twin.logits(iterate), label))
        np.testing.assert_allclose(attacked.adversarials[place].numpy(), expected, rtol=0, atol=1e-9)
    assert 0 < robust < 9


def iterates_from(twin: Any, image: Any, start: Any, label: int, *, epsilon: float, steps: int) -> list[Any]:
    """As the reference, from any start."""
    path = [start]
    for _ in range(steps):
        slope = reference.SLOPES["ce"](twin.logits(path[-1]), label)
        step = 2.5 * epsilon / steps * reference.steepest(twin.gradient(path[-1], slope), "l2")
        path.append(np.clip(image + reference.nearest(path[-1] + step - image, "l2", epsilon), 0, 1))
    return path


def test_noise_has_no_steps_and_is_taken_as_it_is() -> None:
    _, net, images, labels = problem()
    attack, threat, rng = Noise(restarts=3), Threat.of("l2", "1"), PerImageRng.of(5, (*INDICES, 1, 2, 4))
    attacked = attack_in_full(attack, net, images, labels, threat, rng)
    assert torch.equal(attacked.adversarials, attack(net, images, labels, threat, rng=rng).adversarials)


# Similarities


def by_hand(seed: int, predictions: list[int]) -> Explanation:
    """Two maps of 8 x 9 pixels for each image, all different."""
    maps = torch.randn(len(predictions), 2, 8, 9, generator=torch.Generator().manual_seed(seed))
    targets = torch.tensor(predictions)[:, None].expand(-1, 2)
    return Explanation(weights=None, contributions=maps, logits=torch.eye(7)[predictions], targets=targets)


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_all_measures_of_both_classes_are_taken_of_every_image(comparison: str) -> None:
    clean, other = by_hand(0, [1, 2, 3]), by_hand(1, [1, 5, 3])
    similarities = compare_explanations(clean, other, comparison)
    assert [(one.comparison, one.explained_class) for one in similarities] == [
        (comparison, explained_class) for explained_class in EXPLAINED_CLASSES
    ]
    for position, similarity in enumerate(similarities):
        assert similarity.changed.tolist() == [0, 1, 0]
        assert list(similarity.values) == list(MEASURES)
        maps = [(clean.contributions[i, position][None], other.contributions[i, position][None]) for i in range(3)]
        for name, values in similarity.values.items():
            torch.testing.assert_close(values, torch.cat([MEASURES[name](*pair) for pair in maps]))


def test_an_image_beside_itself_has_not_moved() -> None:
    clean = by_hand(0, [1, 2, 3])
    for similarity in compare_explanations(clean, clean, "other"):
        assert not similarity.changed.any()
        for name, values in similarity.values.items():
            expected = torch.zeros(3) if name in ("mass", "centre") else torch.ones(3)
            torch.testing.assert_close(values, expected.double(), rtol=0, atol=1e-6)


# Views


@pytest.mark.parametrize("loss", TrainingLoss)
def test_a_view_says_what_is_predicted_and_how_surely(loss: TrainingLoss) -> None:
    images = draw(6, *SHAPE)
    explanation = both_classes(images).of_target(1)
    logits = explanation.logits.double().numpy()
    for place, shown in enumerate(make_views(images, explanation, loss)):
        assert shown.prediction == logits[place].argmax()
        exponentials = np.exp(logits[place])
        shares = exponentials / exponentials.sum() if loss == "ce" else exponentials / (1 + exponentials)
        assert shown.confidence == pytest.approx(shares.max(), rel=1e-5)
        np.testing.assert_array_equal(shown.pixels, images[place].numpy())
        np.testing.assert_array_equal(shown.contributions, explanation.contributions[place].numpy())
        assert shown.explanation.shape == (5, 4, 4)
        assert shown.explanation.min() >= 0
        assert shown.explanation.max() <= 1
        for array in (shown.pixels, shown.explanation, shown.contributions):
            assert array.dtype == np.float32


class Encoded(nn.Module):
    """What is left of a B-cos network when its encoding is taken off."""

    def forward(self, encoded: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", encoded, draw(7, 6, 5, 4, seed=3) - 0.5)


def test_of_an_encoded_image_the_colours_are_shown() -> None:
    images = draw(2, *SHAPE)
    encoded = AddInverse()(images)
    for image, shown in zip(images, make_views(encoded, explain(Encoded(), encoded), TrainingLoss.BCE), strict=True):
        np.testing.assert_array_equal(shown.pixels, image.numpy())
        assert shown.explanation.shape == (5, 4, 4)


def test_without_a_class_a_view_says_so() -> None:
    images = draw(6, *SHAPE)
    images[2, :, 0, 0] = 1
    shown = make_views(images, both_classes(images).of_target(1), TrainingLoss.CE)
    assert [view.prediction == -1 for view in shown] == [False, False, True, False, False, False]
    assert np.isnan(shown[2].confidence)
