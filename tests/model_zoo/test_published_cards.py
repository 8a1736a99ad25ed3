"""Cards of other people's models: what the official package says of them, and files of exactly the published layout."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w
import torch
from bcos.data.presets import ImageNetClassificationPresetEval
from bcos.experiments.utils import Experiment
from bcos.models import pretrained
from bcos.modules.losses import BinaryCrossEntropyLoss, UniformOffLabelsBCEWithLogitsLoss
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from robustbench_bcos.model_zoo.cards import Card, Zoo
from robustbench_bcos.model_zoo.classifier import build_classifier
from robustbench_bcos.model_zoo.models import load_model
from tests.model_zoo.peers import randomise
from tests.optional import importorskip_quietly

ZOO = Zoo()
OFFICIAL = sorted(name for name in ZOO.entries if name.startswith("official-"))
POST = {"post-bcos-resnet50": 23_511_360, "post-bcos-resnet56": 851_936}
MADRY = sorted(name for name in ZOO.entries if name.startswith("madry-"))
RELEASE = "https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights/"

MISPRINTED = {"official-bcos-simple-vit-s": 22.22, "official-bcos-vitc-b": 81.33}
"""Millions of parameters where the published numbers, 22.28 and 81.37, are not those of the published networks."""


MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1), torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1)
"""Constants of ``robustness.datasets.CIFAR``."""


def card_of(name: str) -> Card:
    return ZOO[name].card


class Published(NamedTuple):
    """What the official package calls a model."""

    base: str
    experiment: str
    entry: Callable[[], nn.Module]
    """Builds it without weights."""


def published(name: str) -> Published:
    """Found by the URL on the card."""
    url = card_of(name).weights.url
    base, experiment = next((base, key) for base, urls in pretrained.URLS.items() for key in urls if urls[key] == url)
    entry = re.search(r"entry point (\w+) of", card_of(name).reference)
    assert entry is not None
    return Published(base, experiment, pretrained._entrypoint_registry[entry[1]])


def on_meta(build: Any) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = build()
    return network


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


class TestOfficialModels:
    def test_each_published_file_has_one_card(self) -> None:
        urls = [card_of(name).weights.url for name in OFFICIAL]
        assert sorted(map(str, urls)) == sorted(url for group in pretrained.URLS.values() for url in group.values())
        assert len(OFFICIAL) == len(pretrained._entrypoint_registry) == 34
        assert all(str(url).startswith(RELEASE) for url in urls)

    @pytest.mark.parametrize("name", OFFICIAL)
    def test_the_network_has_the_names_and_shapes_of_the_official_one(self, name: str) -> None:
        card = card_of(name)
        ours = on_meta(lambda: build_classifier(card).network)
        theirs = on_meta(published(name).entry)
        assert shapes(ours) == shapes(theirs)
        assert card.published is not None
        millions = MISPRINTED.get(name, card.published.parameters)
        assert f"{parameters(ours) / 1e6:.2f}" == f"{millions:.2f}"

    @pytest.mark.parametrize("name", OFFICIAL)
    def test_accuracies_digest_and_settings_are_the_published_ones(self, name: str) -> None:
        base, experiment, entry = published(name)
        card, config = card_of(name), Experiment("ImageNet", base, experiment).config
        says = {key: re.search(rf"{key} +\|\s+([0-9.]+)", str(entry.__doc__)) for key in ("Acc@1", "Acc@5", "#Params")}
        found = {key: float(match[1]) for key, match in says.items() if match is not None}
        assert card.published is not None
        assert found == {
            "Acc@1": card.published.top1,
            "Acc@5": card.published.top5,
            "#Params": card.published.parameters,
        }
        assert card.weights.file == str(card.weights.url).removeprefix(RELEASE)
        assert card.weights.sha256 == card.weights.file.removesuffix(".pth").rpartition("-")[2]
        transform = config["data"]["test_transform"]
        assert isinstance(transform, ImageNetClassificationPresetEval)
        assert (card.image_size, card.resize) == (2 * (transform.args["crop_size"],), transform.args["resize_size"])
        assert transform.args["interpolation"] is InterpolationMode(card.interpolation)
        assert transform.args["is_bcos"] is (card.encoding.kind == "add_inverse") is (card.family == "bcos")
        losses = {"bce_off_label": UniformOffLabelsBCEWithLogitsLoss, "ce": nn.CrossEntropyLoss}
        assert type(config["criterion"]) is losses[card.loss]
        assert card.classes == config["data"]["num_classes"] == 1000

    def test_conventional_ones_are_normalised_as_the_package_does_it(self) -> None:
        transform = ImageNetClassificationPresetEval(crop_size=224).transforms.transforms[-1]
        for name in OFFICIAL:
            card = card_of(name)
            if card.family == "conventional":
                assert card.encoding.constants == {"mean": transform.mean, "std": transform.std}


class TestTheOthers:
    @pytest.mark.parametrize(("name", "count"), POST.items())
    def test_those_of_the_post_have_its_numbers_of_parameters(self, name: str, count: int) -> None:
        network = on_meta(lambda: build_classifier(card_of(name)).network)
        # Facts of the configurations: 58 tensors without norms, 266 with them.
        assert (parameters(network), len(network.state_dict())) == (count, 58 if name.endswith("56") else 266)
        # Weights and two moments of Adam in float32, and little else.
        size = card_of(name).weights.size
        assert size is not None
        assert 0 < size - 3 * 4 * count < 0.01 * size

    def test_those_of_the_post_were_trained_with_the_losses_of_their_configurations(self) -> None:
        criterion = Experiment("CIFAR10", "norm_ablations_final", "resnet_56-nomaxout").config["criterion"]
        assert type(criterion) is BinaryCrossEntropyLoss
        assert [card_of(name).loss for name in sorted(POST)] == ["bce_off_label", "bce"]

    @pytest.mark.parametrize("name", MADRY)
    def test_those_of_madrylab_are_its_network_and_constants(self, name: str) -> None:
        card = card_of(name)
        network = on_meta(lambda: build_classifier(card).network)
        # Convolutions, norms and classifier of a ResNet-50 with a 3x3 stem and 10 classes.
        assert parameters(network) == 23_520_842
        assert card.encoding.constants == {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
        assert str(card.weights.url).endswith("?dl=1")
        assert card.weights.sha256 is None

    def test_there_are_five_of_madrylab_by_what_they_were_trained_on(self) -> None:
        assert {name: str(card_of(name).training) for name in MADRY} == {
            "madry-resnet50-l2-0.25": "adversarial l2 0.25",
            "madry-resnet50-l2-0.5": "adversarial l2 0.5",
            "madry-resnet50-l2-1.0": "adversarial l2 1.0",
            "madry-resnet50-linf-8": "adversarial linf 8/255",
            "madry-resnet50-natural": "natural",
        }


def lightning(network: nn.Module) -> dict[str, Any]:
    """As pytorch-lightning leaves it, with Adam's moments, which are not looked at."""
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    moments = {number: {"step": torch.tensor(3.0), "exp_avg": p, "exp_avg_sq": p} for number, p in enumerate([*state])}
    return {
        "epoch": 99,
        "global_step": 70_380,
        "pytorch-lightning_version": "1.9.5",
        "state_dict": state,
        "loops": {},
        "callbacks": {"ModelCheckpoint": {"monitor": "val_acc1", "best_model_score": torch.tensor(0.88)}},
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 1e-3, "params": [*moments]}]}],
        "lr_schedulers": [{"last_epoch": 100}],
    }


def madry(network: nn.Module) -> dict[str, Any]:
    """As ``robustness.train`` leaves a ``DataParallel`` of its ``AttackerModel``."""
    state = network.state_dict()
    model = {"module.normalizer.new_mean": MEAN, "module.normalizer.new_std": STD}
    model |= {f"module.model.{name}": tensor for name, tensor in state.items()}
    model |= {"module.attacker.normalize.new_mean": MEAN, "module.attacker.normalize.new_std": STD}
    model |= {f"module.attacker.model.{name}": tensor for name, tensor in state.items()}
    return {"model": model, "optimizer": {"state": {}, "param_groups": []}, "epoch": 149, "amp": None}


def put(name: str, content: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a file where the weights go; a digest that is published for another file is that of this one."""
    monkeypatch.setenv("ROBUSTBENCH_BCOS_CACHE", str(folder / "cache"))
    file = ZOO[name].weights_file
    file.parent.mkdir(parents=True)
    torch.save(content, file)
    values = card_of(name).model_dump(mode="json", exclude_none=True)
    if "sha256" in values["weights"]:
        values["weights"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()[:10]
    zoo = folder / "zoo"
    zoo.mkdir()
    (zoo / "card.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    return zoo


def random_images(pixels: int) -> Tensor:
    return torch.rand((2, 3, pixels, pixels), generator=torch.Generator().manual_seed(1))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """To the spread of the logits, in which a bias common to all has no part."""
    return float(((found - expected).abs().max() / expected.std()).detach())


class TestFilesOfThePublishedLayout:
    """Made with the official networks and random weights, loaded by name, compared by their logits."""

    @pytest.mark.parametrize(
        ("name", "pixels"),
        [("official-bcos-resnet18", 64), ("official-bcos-vitc-ti", 224), ("official-simple-vit-ti", 64)],
    )
    def test_official_models(self, name: str, pixels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        theirs = published(name).entry()
        last = ImageNetClassificationPresetEval(crop_size=224, is_bcos=card_of(name).family == "bcos").transforms
        images = random_images(pixels)
        encoded = torch.stack([last.transforms[-1](image) for image in images])
        randomise(theirs, encoded)
        zoo = put(name, dict(theirs.state_dict()), tmp_path, monkeypatch)
        assert relative_error(load_model(name, zoo=zoo)(images), theirs(encoded)) < 1e-4

    def test_the_post(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        name = "post-bcos-resnet56"
        theirs = Experiment("CIFAR10", "norm_ablations_final", "resnet_56-nomaxout").get_model()
        images = random_images(32)
        encoded = torch.cat([images, 1 - images], dim=1)
        randomise(theirs, encoded)
        put(name, lightning(theirs), tmp_path, monkeypatch)
        assert relative_error(load_model(name)(images), theirs(encoded)) < 1e-4

    def test_madrylab(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        theirs = importorskip_quietly("robustness.cifar_models.resnet").ResNet50()
        name, images = "madry-resnet50-l2-0.5", random_images(32)
        encoded = (images - MEAN) / STD
        randomise(theirs, encoded)
        put(name, madry(theirs), tmp_path, monkeypatch)
        assert relative_error(load_model(name)(images), theirs(encoded)) < 1e-4
