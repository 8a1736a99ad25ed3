"""Preconditions of a model: broken ones are refused for what is wrong with them, and honest ones are left alone."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustbench_bcos as rb
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence.alternatives import (
    CERTAIN,
    CERTAIN_IF_ASSUMED,
    RANGES,
    READINGS,
    TWICE,
    Asked,
    Standard,
    by_answers,
    compare,
)
from robustbench_bcos.bench.model_preconditions import Tried, check_answers, made_for_another_range
from robustbench_bcos.bench.request import make_request
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.bcos.layers import WithB
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.checkpoints.load import EXPONENTS
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encoding_spec import CONSTANTS
from robustbench_bcos.model_zoo.encodings import AddInverse, Normalize
from robustbench_bcos.model_zoo.models import CheckpointModel, ZooModel, own_model
from tests.bench.evidence.one_check import outcome
from tests.bench.evidence.planted import After, Before, Own, Sharing, always_dropping, own_noise, zoo
from tests.bench.tiny_zoo import tiny_request

LABELLED = 32
DIGITS = EvalSubset.of(Digits("test"))
IMAGES, LABELS, _ = DIGITS.batch(0, LABELLED)


def objection(network: nn.Module, images: EvalSubset = DIGITS) -> str:
    """What is said of it, or nothing."""
    model = own_model("mine", freeze(network))
    said = ""
    try:
        check_answers(model, images, device="cpu")
    except RequestError as error:
        said = str(error)
    assert "\n" not in said
    return said


def constant(images: Tensor, label: int = 0) -> Tensor:
    """The same logits for all images."""
    return (5 * torch.eye(10)[label]).expand(len(images), 10)


def test_outputs_in_another_order_are_refused_with_a_remedy_that_the_dataset_takes() -> None:
    said = objection(After(lambda z: z.roll(1, dims=1)))
    assert "counts the classes in another order than digits: " in said
    assert "put the model's outputs in the order of the classes" in said
    assert "--classes" not in said


def test_a_solver_that_mixes_images_is_refused_by_its_own_word() -> None:
    pytest.importorskip("torchdiffeq")
    # At so small a tolerance neighbours matter too little to be seen.
    options = {"solver": "torchdiffeq", "rtol": 1e-7, "atol": 1e-7}
    network = build_architecture("odenet", in_channels=3, classes=10, arguments=options)
    said = objection(network)
    assert "is solved by torchdiffeq, which chooses one step for all images of a batch" in said
    assert "give solver rk4 or torchode, or per_image = true" in said
    alone = build_architecture("odenet", in_channels=3, classes=10, arguments={**options, "per_image": True})
    few = EvalSubset(DIGITS.dataset, DIGITS.indices[:4])
    assert "one step for all images" not in objection(alone, few)


# Honest models


@pytest.mark.parametrize("name", [name for name, entry in Zoo().entries.items() if entry.card.dataset == "digits"])
def test_there_is_no_objection_to_a_packaged_model(name: str) -> None:
    check_answers(ZooModel(Zoo()[name]).load(), DIGITS, device="cpu")


@pytest.mark.parametrize("finish", [lambda z: z.log_softmax(dim=1), lambda z: z / 1000, lambda z: z * 1000])
def test_logits_of_any_scale_and_shift_are_logits(finish: Callable[[Tensor], Tensor]) -> None:
    assert objection(After(finish)) == ""


def test_pixels_that_are_taken_for_logits_are_no_probabilities() -> None:
    # In [0, 1] as well, and they sum to anything.
    assert objection(Own(lambda _, images: images.flatten(1)[:, :10])) == ""


def test_an_honest_model_is_shown_few_images() -> None:
    seen = []
    counting = Before(lambda images: seen.append(len(images)) or images)
    assert objection(counting) == ""
    assert sum(seen) <= LABELLED + 40


# Answers


class Norms(nn.Module):
    """A batch norm before a good network."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, **options)
        self.network = zoo()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.norm(images) * 0.4 + 0.3)


class Stubborn(Norms):
    """Never leaves training mode, even when it is told to."""

    def train(self, mode: bool = True) -> "Stubborn":
        super().train(mode)
        self.norm.training = True
        return self


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (
            lambda: After(softmax),
            "model 'mine' gives probabilities, and attacks need logits: return",
        ),
        (lambda: Before(own_noise), "answers 4 of 4 images differently when it is asked again: average over its d"),
        (lambda: Before(always_dropping), "images differently when it is asked again"),
        (Sharing, "answers 4 of 4 images differently alone than among others, and no batch norm of it does that (a so"),
        (lambda: Norms(track_running_stats=False), "alone than among others (its batch norm norm has no running stat"),
        (Stubborn, "alone than among others (its batch norm norm has no running statistics or is in training mode): n"),
    ],
)
def test_answers_that_make_numbers_meaningless_are_named_with_the_remedy(
    network: Callable[[], nn.Module], said: str
) -> None:
    torch.manual_seed(0)
    found = objection(network())
    assert said in found
    assert found.endswith(", or have it attacked nonetheless with --skip-model-checks")


def test_a_batch_norm_with_statistics_is_not_blamed() -> None:
    network = Sharing()
    network.network = Norms()
    assert "differently alone than among others, and no batch norm of it does that" in objection(network)


def test_the_remedy_for_images_that_are_mixed_is_one() -> None:
    class OneByOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Sharing()

        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([self.network(image) for image in images.split(1)])

    assert "torch.cat([self.network(image) for image in images.split(1)])" in objection(Sharing())
    assert objection(OneByOne()) == ""


# The range of pixels


def picky(encoding: str) -> nn.Module:
    """Good at images in the range of an encoding, and constant on what is not of that range."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in CONSTANTS[encoding])

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        decoded = images * std + mean
        least, most = decoded.flatten(1).amin(dim=1), decoded.flatten(1).amax(dim=1)
        fits = (least.abs() < 0.02) & (most > 0.7) & (most < 1.02)
        return torch.where(fits[:, None], network(decoded), constant(images))

    return Own(forward)


@pytest.mark.parametrize("encoding", ["bytes", "symmetric", "imagenet", "cifar10"])
def test_a_network_for_another_range_is_told_which(encoding: str) -> None:
    said = objection(picky(encoding))
    images, labels, _ = DIGITS.batch(0, 128)
    right = int((zoo()(images).argmax(dim=1) == labels).sum())
    assert f"gets {int((labels == 0).sum())} of 128 images right, and {right} if it is given pixels " in said
    assert f"{RANGES[f'normalize:{encoding}']}: give --encoding normalize:{encoding}, or correct its card" in said
    # The remedy is one.
    assert objection(ImageClassifier(Normalize(*CONSTANTS[encoding]), picky(encoding))) == ""


@pytest.mark.parametrize("reading", READINGS)
def test_images_that_are_read_in_another_way_than_those_of_the_training_are_told(reading: str) -> None:
    colours = torch.tensor([1.0, 0.6, 0.3]).view(3, 1, 1)
    labels = DIGITS.batch(0, 64).labels
    images = DIGITS.batch(0, 64).images * colours

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        """Right about coloured digits, and constant on what is none."""
        coloured = images[:, 0].amax(dim=(1, 2)) > images[:, 2].amax(dim=(1, 2)) + 0.1
        return torch.where(coloured[:, None] & (images.amin() < 0.1), network(images / colours), constant(images))

    def said(images: Tensor) -> str:
        return objection(Own(forward), EvalSubset.of(InMemory(images, labels, classes=10)))

    assert said(images) == ""
    assert f"if it is given images {reading}: read them so, or undo it in the model's code" in said(
        READINGS[reading](images)
    )


@pytest.mark.parametrize(("words", "encoding"), TWICE.items())
def test_a_model_that_normalises_twice_is_told_so(words: str, encoding: str) -> None:
    once = nn.Sequential(Normalize(*CONSTANTS[encoding]), picky(encoding))
    assert objection(once) == ""
    assert f"if it is given images {words}: " in objection(nn.Sequential(Normalize(*CONSTANTS[encoding]), once))


def test_a_real_network_for_bytes_is_recognised() -> None:
    assert "give --encoding normalize:bytes" in objection(Before(lambda images: images / 255))


def test_an_encoding_that_should_not_be_there_is_recognised() -> None:
    class Unit(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            inside = images.amin() >= 0 and images.amax() <= 1
            return zoo()(images) if inside else constant(images)

    assert "give --encoding none, or correct its card" in objection(
        ImageClassifier(Normalize(*CONSTANTS["imagenet"]), Unit())
    )
    assert objection(Unit()) == ""


def test_a_network_that_fails_in_another_range_is_not_asked_again() -> None:
    def strict(network: nn.Module, images: Tensor) -> Tensor:
        if images.amin() < 0 or images.amax() > 1:
            raise ValueError("pixels must be in [0, 1]")
        return constant(images)

    assert objection(Own(strict)) == ""


def test_nothing_is_said_on_few_images_or_of_six_channels() -> None:
    assert "bytes" in objection(picky("bytes"), EvalSubset.of(Digits("test"), LABELLED))
    assert objection(picky("bytes"), EvalSubset.of(Digits("test"), LABELLED - 1)) == ""
    bytes_alone = picky("bytes")
    six = Own(lambda _, images: constant(images) if images.shape[1] == 6 else bytes_alone(images))
    assert objection(ImageClassifier(AddInverse(), six)) == ""


def told(right: int, right_in_bytes: int, count: int = LABELLED, both: int = 0) -> str:
    """What is said of a network that is right about so many images, and about so many others if pixels are bytes.

    Args:
        right: images it is right about as they are.
        right_in_bytes: images it is right about in [0, 255].
        count: images in all.
        both: images that it is right about in either range.
    """
    # In no order, and the same places whatever is asked.
    places = torch.arange(count) * 37 % count
    plain, in_bytes = places < right, (places >= right - both) & (places < right - both + right_in_bytes)
    labels = torch.arange(count) % 10
    # Wrong predictions scatter, as those of a weak network do.
    said = (labels + 1 + torch.arange(count) * 7 % 9) % 10
    images = torch.zeros(count, 3, 1, 5)
    images[:, 0, 0] = torch.stack([plain, in_bytes, labels / 10, said / 10, torch.ones(count)], dim=1)

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        flags = images[:, 0, 0] / images[:, 0, 0, 4:]
        known = flags[:, 1] if images.amax() > 1 else flags[:, 0]
        predicted = (10 * torch.where(known > 0.5, flags[:, 2], flags[:, 3])).round()
        logits = 5 * torch.nn.functional.one_hot(predicted.long(), 10).float()
        return constant(images, 9) if images.amin() < 0 else logits

    return objection(Own(forward), EvalSubset.of(InMemory(images, labels, classes=10)))


def test_another_range_must_certainly_be_better_image_by_image() -> None:
    assert told(4, 14) == ""
    # P of 24 won and 4 lost is 9e-5, of 27 won 2e-5; certain is 1e-3 for 6 ranges and 3 numbers of images, 5.6e-5.
    assert told(4, 24) == ""
    assert "gets 4 of 32 images right, and 27 if it is given pixels in [0, 255]" in told(4, 27)


def test_a_network_that_is_better_than_guesses_may_be_better_in_another_range() -> None:
    assert "gets 12 of 32 images right, and 32 if it is given pixels in [0, 255]" in told(12, 32, both=12)
    # Two thirds right, and all but all right instead, on the same images.
    assert "gets 85 of 128 images right, and 120 if" in told(85, 120, 128, both=85)


def test_a_little_better_on_few_images_is_chance() -> None:
    assert told(20, 24, both=20) == ""
    assert told(60, 66, 128, both=52) == ""


def test_constant_answers_are_guesses_however_common_a_class_is() -> None:
    labels = torch.tensor([0] * 20 + [1] * 12)

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        return constant(images, 0 if images.amax() > 1 else 2)

    images = EvalSubset.of(InMemory(IMAGES, labels, classes=10))
    assert objection(Own(forward), images) == ""


def test_models_that_guess_are_not_accused() -> None:
    """In 100 tries, 0.1 accusations are expected where guesses are independent; random networks are bolder."""
    accused = 0
    for seed in range(100):
        weights = torch.randn(192, 10, generator=torch.Generator().manual_seed(seed))
        bias = 8 * torch.randn(10, generator=torch.Generator().manual_seed(1000 + seed))
        labels = torch.randint(10, (LABELLED,), generator=torch.Generator().manual_seed(2000 + seed))
        network = Own(lambda _, images, weights=weights, bias=bias: images.flatten(1) @ weights + bias)
        subset = EvalSubset.of(InMemory(IMAGES, labels, classes=10))
        accused += bool(made_for_another_range(Tried(model=own_model("m", network), subset=subset, device="cpu")))
    assert accused <= 1


# In a run and in memory


def own_module(folder: Path) -> None:
    (folder / "own_soft_nets.py").write_text(
        "import torch\nimport robustbench_bcos as rb\n\n"
        "def soft():\n    return torch.nn.Sequential(rb.load_model('digits-natural'), torch.nn.Softmax(dim=1))\n\n"
        "def bright():\n    return torch.nn.Sequential(Divide(), rb.load_model('digits-natural'))\n\n"
        "class Divide(torch.nn.Module):\n    def forward(self, images):\n        return images / 255\n"
    )


def test_a_run_refuses_them_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_module(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    flags: dict[str, Any] = {"model": ("own_soft_nets:soft",), "limit": 40, "device": "cpu", "figures": False}
    with pytest.raises(RequestError, match=r"^model 'own_soft_nets:soft' gives probabilities"):
        make_request(make_config(flags))
    request = make_request(make_config(flags | {"skip_model_checks": True}))
    bright = flags | {"model": ("own_soft_nets:bright",)}
    with pytest.raises(RequestError, match="give --encoding normalize:bytes"):
        make_request(make_config(bright))
    assert make_request(make_config(bright | {"encoding": "normalize:bytes"}))
    # How a model was admitted decides no number.
    assert "skip_model_checks" not in request.identity.to_json()


def test_in_memory_evidence_is_the_judge_unless_told_otherwise() -> None:
    arguments = (After(softmax), IMAGES[:20], LABELS[:20], "l2", 0.5)
    (row,) = rb.evaluate(*arguments, steps=3, device="cpu").to_dict(orient="records")
    assert row["trust"] == "suspect"
    assert "saturated_output" in row["reasons"]
    with pytest.raises(RequestError, match=r"^model 'After' gives probabilities"):
        rb.evaluate(*arguments, steps=3, device="cpu", skip_model_checks=False)


def test_the_tiny_zoo_is_admitted(tiny_zoo: Path) -> None:
    assert len(tiny_request(tiny_zoo, limit=LABELLED).weights) == 2


# What was assumed of a weights file


def said_of(architecture: str, card: str, count: int = 150, **arguments: Any) -> str:
    """What is said of a card's weights, given to an architecture."""
    model = CheckpointModel(file=Zoo()[card].weights_file, architecture=architecture, arguments=arguments).load()
    try:
        check_answers(model, EvalSubset.of(Digits("test"), count), device="cpu")
    except RequestError as error:
        return str(error)
    return ""


def test_another_b_that_fits_better_is_told() -> None:
    said = said_of("bcos_resnet8", "digits-bcos-b2.5")
    assert "images right, and " in said
    assert "with --argument b=2.5, which the weights leave open: give --argument b=2.5" in said
    assert said_of("bcos_resnet8", "digits-bcos-b2.5", b=2.5) == ""
    # What was stated is not doubted.
    assert said_of("bcos_resnet8", "digits-bcos-b2.5", b=2.0) == ""
    assert said_of("bcos_resnet8", "digits-bcos-b2") == ""


@pytest.mark.parametrize(("b", "count"), [(2.5, 32), (1.75, 100)])
def test_losses_tell_another_b_on_images_that_are_too_few_for_answers(b: float, count: int) -> None:
    model, subset = ZooModel(Zoo()["digits-bcos-b2"]).load(), EvalSubset.of(Digits("test"), count)
    others = {f"{other:g}": partial(WithB, model.classifier, other) for other in EXPONENTS if other != b}

    def better(standard: Standard) -> bool:
        assumed = Asked(WithB(model.classifier, b), subset, "cpu")
        return compare(assumed, others, subset, "cpu", standard).better is not None

    assert better(CERTAIN_IF_ASSUMED)
    assert not better(replace(CERTAIN_IF_ASSUMED, p=by_answers))


class _Table(nn.Module):
    """Logits by the index that the first pixel holds."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[(images[:, 0, 0, 0] * 255).round().long()]


def test_a_few_lucky_answers_are_no_other_b_however_small_the_losses_on_all_others() -> None:
    labels = torch.arange(60) % 3
    images = (torch.arange(60.0) / 255)[:, None, None, None].expand(-1, 3, 4, 4)
    subset = EvalSubset.of(InMemory(images, labels, classes=3), None)
    lucky = 5.0 * nn.functional.one_hot(labels, 3)
    honest = lucky.clone()
    honest[:4] = honest[:4].roll(1, dims=1)
    alternatives = {"lucky": partial(_Table, lucky)}
    asked = Asked(_Table(honest), subset, "cpu")
    assert compare(asked, alternatives, subset, "cpu", CERTAIN_IF_ASSUMED).better is None


def test_a_model_that_assumes_something_is_asked_about_further_images_if_it_is_right_about_the_first() -> None:
    labels = torch.arange(180) % 3
    images = (torch.arange(180.0) / 255)[:, None, None, None].expand(-1, 3, 4, 4)
    subset = EvalSubset.of(InMemory(images, labels, classes=3), None)
    right = 5.0 * nn.functional.one_hot(labels, 3)
    wrong = right.clone()
    wrong[60:] = wrong[60:].roll(1, dims=1)
    others = {"right": partial(_Table, right)}
    for standard, better in ((CERTAIN, False), (CERTAIN_IF_ASSUMED, True)):
        compared = compare(Asked(_Table(wrong), subset, "cpu"), others, subset, "cpu", standard)
        assert (compared.better is not None) == better


def test_the_row_of_a_model_says_so_where_it_was_attacked_nonetheless() -> None:
    request = make_request(
        make_config(
            {
                "weights": Zoo()["digits-bcos-b2.5"].weights_file,
                "architecture": "bcos_resnet8",
                "limit": 150,
                "steps": (1,),
                "attack": ("noise",),
                "device": "cpu",
                "figures": False,
                "skip_model_checks": True,
            }
        )
    )
    said, trust = outcome("assumed_arguments", request)
    assert said.status == "undermined"
    assert "with --argument b=2.5" in said.sentence
    assert "assumed_arguments" in trust.reasons
