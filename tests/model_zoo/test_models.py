"""Models from wherever they come: the zoo's contract, checkpoints of any setting, and one's own code."""

import copy
import itertools
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from bcos.experiments.CIFAR10.norm_ablations_final.experiment_parameters import CONFIGS
from bcos.experiments.CIFAR10.norm_ablations_final.model import get_model
from safetensors.torch import load_file
from torch import Tensor, nn

from robustbench_bcos.core.adapted import Adapted, copied
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.architectures import BCOS_PREFIX, build_architecture
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from robustbench_bcos.model_zoo.cards import ModelSpec, Zoo
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.checkpoints.layouts import read_checkpoint
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.classifier import ImageClassifier, build_classifier, freeze
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.models import (
    CheckpointModel,
    ZooModel,
    find_models,
    list_models,
    load_model,
    own_model,
    state_digest,
)
from robustbench_bcos.training.recipes import RECIPES
from tests.drafts import NATURAL
from tests.model_zoo.test_cards import write_card

PACKAGED = sorted(name for name, entry in Zoo().entries.items() if entry.card.weights.url is None)
HEIGHT, WIDTH = 8, 12


def images() -> Tensor:
    return torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def randomise(network: nn.Module) -> None:
    """Every tensor away from its default, so that none can be missed."""
    for seed, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
            tensor.copy_(values.abs() + 0.1 if name.endswith("running_var") else values)


def make_checkpoint(
    file: Path, architecture: str, classes: int = 3, channels: int | None = None, **arguments: Any
) -> nn.Module:
    """A network with random weights, which are in the file, too."""
    in_channels = channels or (6 if architecture.startswith(BCOS_PREFIX) else 3)
    network = build_architecture(architecture, in_channels=in_channels, classes=classes, arguments=arguments)
    randomise(network)
    torch.save(network.state_dict(), file)
    return network.eval()


def assert_frozen(model: nn.Module) -> None:
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


class TestEveryPackagedModel:
    """The contract of the zoo."""

    def test_there_are_some(self) -> None:
        assert PACKAGED

    @pytest.mark.parametrize("name", PACKAGED)
    def test_has_the_weights_its_card_names_and_loads_strictly(self, name: str) -> None:
        entry = Zoo()[name]
        assert sha256_of(entry.weights_file) == entry.card.weights.sha256
        assert entry.weights_file.suffix == ".safetensors"
        tensors = read_checkpoint(entry.weights_file).tensors
        network = build_classifier(entry.card).network
        assert network.state_dict().keys() == tensors.keys()
        assign_weights(network, tensors, entry.weights_file)
        for key, tensor in network.state_dict().items():
            # Filters of 8 bits are read as others are.
            assert torch.equal(tensor, tensors[key].to(tensor.dtype))

    @pytest.mark.parametrize("name", PACKAGED)
    def test_has_a_licence_and_the_recipe_it_was_made_with(self, name: str) -> None:
        card = Zoo()[name].card
        assert card.licence
        assert card.recipe in RECIPES.names()
        recipe = RECIPES.load(card.recipe)
        for key in ModelSpec.model_fields:
            assert getattr(card, key) == getattr(recipe, key), key

    @pytest.mark.parametrize("name", PACKAGED)
    def test_is_small_enough_to_come_with_the_package(self, name: str) -> None:
        entry = Zoo()[name]
        assert entry.weights_file.stat().st_size < 10**6
        if entry.card.dataset != "digits":
            recipe = RECIPES.load(name)
            assert recipe.half or recipe.float8_filters
            filters = [tensor.dtype for tensor in load_file(entry.weights_file).values() if tensor.dim() == 4]
            assert set(filters) == {torch.float16 if recipe.half else torch.float8_e4m3fn}

    @pytest.mark.parametrize("name", [name for name in PACKAGED if name.startswith("digits-")])
    def test_has_the_clean_accuracy_of_its_card(self, name: str) -> None:
        model = ZooModel(Zoo()[name]).load()
        card = Zoo()[name].card
        test = EvalSubset.of(open_dataset("digits", "test"))
        batch = test.batch(0, len(test))
        with torch.no_grad():
            correct = int((predicted_classes(model.classifier(batch.images)) == batch.labels).sum())
        assert card.clean_accuracy is not None
        assert (correct, len(test)) == (card.clean_accuracy.correct, card.clean_accuracy.total)

    @pytest.mark.parametrize("name", PACKAGED)
    def test_is_loaded_frozen_and_says_what_it_is(self, name: str) -> None:
        card = Zoo()[name].card
        model = ZooModel(Zoo()[name]).load()
        assert_frozen(model.classifier)
        assert (model.name, model.family, model.architecture) == (name, card.family, card.architecture)
        assert (model.training, model.weights_sha256) == (str(card.training), card.weights.sha256)
        assert (model.image_size, model.classes) == (card.image_size, card.classes)
        assert model.trained_with is card.loss
        assert model.parameters == sum(parameter.numel() for parameter in model.classifier.parameters()) > 0
        assert model.classifier(torch.zeros(2, 3, *card.image_size)).shape == (2, card.classes)


class TestCards:
    """What a card says decides; weights that differ from it are refused."""

    @pytest.fixture
    def network(self, tmp_path: Path) -> nn.Module:
        network = make_checkpoint(tmp_path / "unused.pt", "resnet8", classes=4)
        self.write_card(tmp_path, sha256=write_weights(network, tmp_path / "mine.safetensors"))
        return network

    @staticmethod
    def write_card(folder: Path, *, sha256: str, **changes: Any) -> None:
        constants = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
        card = NATURAL | {
            "name": "mine",
            "classes": 4,
            "image_size": [HEIGHT, WIDTH],
            "encoding": {"kind": "normalize", **constants},
            "weights": {"file": "mine.safetensors", "sha256": sha256},
            "licence": "CC0-1.0",
            **changes,
        }
        (folder / "mine.toml").write_text(tomli_w.dumps(card))

    def test_a_users_model_is_loaded_with_its_encoding(self, tmp_path: Path, network: nn.Module) -> None:
        classifier = load_model("mine", zoo=tmp_path)
        assert_frozen(classifier)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
        assert torch.equal(classifier(images()), network((images() - mean) / std))

    def test_weights_of_another_digest_are_refused(self, tmp_path: Path, network: nn.Module) -> None:
        file = tmp_path / "mine.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        with pytest.raises(RequestError, match=f"^weights {file} have SHA-256 .*, expected"):
            load_model("mine", zoo=tmp_path)

    def test_the_card_and_not_the_name_of_the_file_says_its_format(self, tmp_path: Path, network: nn.Module) -> None:
        for file, kind in [("unused.pt", "state_dict"), ("mine.safetensors", "safetensors")]:
            odd = (tmp_path / file).rename(tmp_path / "mine.odd")
            for written in ("state_dict", "safetensors"):
                weights = {"file": "mine.odd", "sha256": sha256_of(odd), "format": written}
                self.write_card(tmp_path, sha256="", weights=weights)
                if written == kind:
                    load_model("mine", zoo=tmp_path)
                else:
                    with pytest.raises(RequestError, match=f"^weights {odd} "):
                        load_model("mine", zoo=tmp_path)

    def test_weights_that_are_gone_are_refused(self, tmp_path: Path, network: nn.Module) -> None:
        (tmp_path / "mine.safetensors").unlink()
        with pytest.raises(RequestError, match=f"^weights {tmp_path}/mine.safetensors cannot be read"):
            load_model("mine", zoo=tmp_path)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"classes": 5}, "tensor 'fc.bias' has shape|tensor 'fc.weight' has shape"),
            ({"architecture": "resnet20"}, "do not fit the architecture: missing"),
            ({"arguments": {"norm": "none"}}, "do not fit the architecture: surplus"),
            ({"architecture": "resnet9"}, r"unknown architecture 'resnet9': did you mean 'resnet\d+'"),
            ({"arguments": {"b": 2}}, "architecture 'resnet8' takes no argument 'b'"),
            ({"encoding": {"kind": "add_inverse"}}, "tensor 'conv1.weight' has shape"),
        ],
        ids=lambda value: "" if isinstance(value, str) else str(value),
    )
    def test_a_card_that_does_not_fit_its_weights_is_refused(
        self, tmp_path: Path, network: nn.Module, changes: dict[str, Any], said: str
    ) -> None:
        self.write_card(tmp_path, sha256=sha256_of(tmp_path / "mine.safetensors"), **changes)
        with pytest.raises(RequestError, match=said):
            load_model("mine", zoo=tmp_path)

    def test_names_and_globs_are_found_in_the_zoo(self, tmp_path: Path, network: nn.Module) -> None:
        zoo = Zoo([tmp_path])
        assert [source.name for source in find_models("m?ne", zoo)] == ["mine"]
        assert [source.name for source in find_models("*", zoo)] == sorted(zoo.entries)
        with pytest.raises(RequestError, match=r"^unknown model 'mini': did you mean 'mine'"):
            find_models("mini", zoo)

    def test_more_than_one_model_is_not_loaded_at_a_time(self) -> None:
        with pytest.raises(RequestError, match=r"^'digits-.' names 9 models: load one at a time$"):
            load_model("digits-*")

    def test_what_only_a_weights_file_takes_is_not_ignored(self) -> None:
        with pytest.raises(RequestError, match=r"\(b\) go with a weights file and its architecture: model 'digits-nat"):
            load_model("digits-natural", b=1.5)
        with pytest.raises(RequestError, match=r"^--encoding none describes models without .*'digits-nat"):
            load_model("digits-natural", encoding="none")


AFFINE = ("full", "no-bias", "none")
READ_OFF = ("none", "batch-uncentred", "all-uncentred")
"""Norms that a B-cos checkpoint's tensors and the published default decide."""
SETTINGS: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    *(
        ("bcos_resnet20", classes, {"max_out": max_out, "norm": norm, "norm_affine": affine}, {})
        for (max_out, classes), norm, affine in itertools.product([(1, 10), (2, 3), (2, 10)], READ_OFF, AFFINE)
    ),
    *(
        ("bcos_resnet20", 3, {"max_out": max_out, "norm": norm, "norm_affine": affine}, {"norm": norm})
        for max_out, norm, affine in itertools.product((1, 2), ("position-uncentred", "batch"), AFFINE)
    ),
    *(
        ("resnet20", classes, {"norm": norm, "norm_affine": affine}, {})
        for classes, norm, affine in itertools.product((3, 10), ("none", "batch", "all"), AFFINE)
    ),
    *(("resnet20", 3, {"norm": "position", "norm_affine": affine}, {"norm": "position"}) for affine in AFFINE),
    ("bcos_resnet20", 10, {"b": 1.25}, {"b": 1.25}),
    ("bcos_resnet20", 3, {"logit_bias": -3.5, "temperature": 0.5}, {"logit_bias": -3.5, "temperature": 0.5}),
    ("bcos_resnet32", 10, {}, {}),
]
"""(architecture, classes, what the network was made with, what has to be said to load it)"""


class TestCheckpoints:
    """A weights file and the name of an architecture are enough, wherever tensors or the published default decide."""

    @pytest.mark.parametrize(
        ("architecture", "classes", "made", "said"),
        SETTINGS,
        ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
    )
    def test_a_loaded_network_gives_the_logits_of_the_saved_one(
        self, tmp_path: Path, architecture: str, classes: int, made: dict[str, Any], said: dict[str, Any]
    ) -> None:
        network = make_checkpoint(tmp_path / "net.pt", architecture, classes, **made)
        loaded = load_model(tmp_path / "net.pt", architecture=architecture, **said)
        assert_frozen(loaded)
        encoded = images()
        if architecture.startswith(BCOS_PREFIX):
            encoded = torch.cat([encoded, 1 - encoded], dim=1)
        with torch.no_grad():
            logits = network(encoded)
        assert logits.shape == (2, classes)
        # The same operations in the same order.
        assert torch.equal(loaded(images()), logits)

    def test_a_row_says_what_is_known_of_a_checkpoint(self, tmp_path: Path) -> None:
        for architecture, family, loss in [("bcos_resnet8", "bcos", "bce"), ("resnet8", "conventional", "ce")]:
            file = tmp_path / f"{architecture}.v1.safetensors"
            write_weights(make_checkpoint(tmp_path / "unused.pt", architecture), file)
            model = CheckpointModel(file=file, architecture=architecture).load()
            assert (model.name, model.family, model.architecture) == (f"{architecture}.v1", family, architecture)
            assert (model.training, model.loss, model.weights_sha256) == ("unknown", loss, sha256_of(file))
            assert (model.image_size, model.classes) == (None, 3)

    @pytest.mark.parametrize("centred", [False, True])
    @pytest.mark.parametrize("norm", ["batch", "all"])
    def test_a_bcos_norm_is_taken_for_uncentred_unless_told(self, tmp_path: Path, norm: str, centred: bool) -> None:
        make_checkpoint(tmp_path / "net.pt", "bcos_resnet8", norm=f"{norm}-uncentred")
        said = {"norm": norm} if centred else {}
        loaded = load_model(tmp_path / "net.pt", architecture="bcos_resnet8", **said)
        assert isinstance(loaded, ImageClassifier)
        assert isinstance(loaded.network.bn1, BatchNormUncentred2d) == (not centred)

    @pytest.mark.parametrize("affine", ["full", "no-bias"])
    @pytest.mark.parametrize("norm", ["group", "instance", "layer", "position"])
    @pytest.mark.parametrize("architecture", ["bcos_resnet8", "resnet8"])
    def test_norms_that_leave_no_trace_of_their_kind_must_be_named(
        self, tmp_path: Path, architecture: str, norm: str, affine: str
    ) -> None:
        make_checkpoint(tmp_path / "net.pt", architecture, norm=norm, norm_affine=affine)
        with pytest.raises(RequestError, match=r"^the weights have norms without .*: name one with --argument norm="):
            load_model(tmp_path / "net.pt", architecture=architecture)
        load_model(tmp_path / "net.pt", architecture=architecture, norm=norm)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("resnet_20", {}),
            ("resnet_20_bnu-linear", {}),
            ("resnet_20_bnu", {}),
            ("resnet_20_bnu-unaffine", {}),
            ("resnet_20_anu-linear", {}),
            ("resnet_20_bn-linear", {"norm": "batch"}),
            ("resnet_20_pnu-linear", {"norm": "position-uncentred"}),
            ("resnet_32", {}),
        ],
    )
    @pytest.mark.parametrize("max_out", [1, 2])
    def test_an_official_checkpoint_gives_the_official_logits(
        self, tmp_path: Path, name: str, said: dict[str, Any], max_out: int
    ) -> None:
        config = copy.deepcopy(CONFIGS[name]["model"])
        config["bcos_args"]["max_out"] = max_out
        official = get_model(config).eval()
        randomise(official)
        torch.save(official.state_dict(), tmp_path / "official.pth")
        architecture = f"bcos_resnet{name.split('_')[1]}"
        loaded = load_model(tmp_path / "official.pth", architecture=architecture, **said).double()
        given = images().double()
        with torch.no_grad():
            expected = official.double()(torch.cat([given, 1 - given], dim=1))
        # Signals may be far smaller than the logit bias that both add, so it is taken off before they are compared.
        bias = -torch.log(torch.tensor(9.0, dtype=torch.float64))
        size = (expected - bias).abs().max()
        torch.testing.assert_close((loaded(given) - bias) / size, (expected - bias) / size, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(
        ("architecture", "said", "expected"),
        [
            ("resnet8", {}, "no tensor 'conv1.weight' of architecture 'resnet8'.*prefix bcos_ marks B-cos"),
            ("bcos_resnet20", {}, "do not fit the architecture: missing .*: use --architecture bcos_resnet8,"),
            ("bcos_resnet9", {}, "^unknown architecture 'bcos_resnet9': did you mean 'bcos_resnet"),
            ("bcos_resnet8", {"norm": "none"}, "do not fit the architecture: surplus"),
            ("bcos_resnet8", {"norm": "bach"}, "^unknown norm layer 'bach': did you mean 'batch'"),
            ("bcos_resnet8", {"max_out": 2}, "has shape"),
            ("bcos_resnet8", {"max_out": 0}, "^max_out must be a whole number of at least 1, got 0"),
            ("bcos_resnet8", {"max_out": "2"}, "^max_out must be a whole number of at least 1, got '2'"),
            ("bcos_resnet8", {"width": 2}, "takes no argument 'width': it takes b, learn_b, max_out, norm"),
            ("bcos_resnet8", {"encoding": "none"}, "^--encoding none gives 3 channels and the weights .* take 6"),
            ("bcos_resnet8", {"encoding": "invert"}, "^unknown encoding 'invert'"),
            ("bcos_resnet8", {"encoding": "normalize"}, "^--encoding normalize: gives no mean and deviation"),
        ],
        ids=lambda value: None if isinstance(value, str) else str(value),
    )
    def test_what_does_not_fit_a_checkpoint_is_refused(
        self, tmp_path: Path, architecture: str, said: dict[str, Any], expected: str
    ) -> None:
        make_checkpoint(tmp_path / "net.pt", "bcos_resnet8", classes=4)
        with pytest.raises(RequestError, match=expected) as caught:
            load_model(tmp_path / "net.pt", architecture=architecture, **said)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "shape", "expected"),
        [
            ("conv1.linear.weight", (), "first and last layers have shapes"),
            ("conv1.linear.weight", (16, 6), "first and last layers have shapes"),
            ("fc.linear.weight", (10,), "first and last layers have shapes"),
            ("fc.linear.weight", (1, 64, 1, 1), "fewer than two classes"),
            ("fc.linear.weight", (0, 64, 1, 1), "fewer than two classes"),
            ("conv1.linear.weight", (16, 4, 3, 3), "--encoding none gives 3 channels and the weights .* take 4:"),
            ("conv1.linear.weight", (8, 6, 3, 3), "'conv1.linear.weight' has shape"),
        ],
    )
    def test_a_checkpoint_of_impossible_shapes_is_refused(
        self, tmp_path: Path, name: str, shape: tuple[int, ...], expected: str
    ) -> None:
        state = make_checkpoint(tmp_path / "net.pt", "bcos_resnet8").state_dict()
        torch.save({**state, name: torch.zeros(shape)}, tmp_path / "net.pt")
        with pytest.raises(RequestError, match=expected):
            load_model(tmp_path / "net.pt", architecture="bcos_resnet8")

    def test_bcos_weights_for_three_channels_take_the_image_itself(self, tmp_path: Path) -> None:
        network = make_checkpoint(tmp_path / "net.pt", "bcos_resnet8", channels=3)
        loaded = load_model(tmp_path / "net.pt", architecture="bcos_resnet8")
        # Filters that are trained take another way through the layer, which some processors round otherwise.
        assert torch.equal(loaded(images()), network.requires_grad_(False)(images()))

    def test_a_weights_file_without_an_architecture_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        make_checkpoint(tmp_path / "net.pt", "resnet8")
        with pytest.raises(RequestError, match=f"^weights {tmp_path}/net.pt need the architecture .* resnet8, which"):
            load_model(tmp_path / "net.pt")


OWN_CODE = """
import torch

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(3 * 8 * 12, 5))

def make():
    return Net()

def tired():
    return "no module"

ready = Net()
number = 3
"""


class TestOwnCode:
    """``module:callable`` runs the user's code, because the user asked for it."""

    @pytest.fixture(autouse=True)
    def _working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        (tmp_path / "own_nets_for_tests.py").write_text(OWN_CODE)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
        yield
        sys.modules.pop("own_nets_for_tests", None)

    @pytest.mark.parametrize("attribute", ["make", "Net", "ready"])
    def test_a_function_a_class_and_a_module_of_the_working_folder_are_loaded_frozen(self, attribute: str) -> None:
        (source,) = find_models(f"own_nets_for_tests:{attribute}", Zoo())
        model = source.load()
        assert (source.name, model.name) == (f"own_nets_for_tests:{attribute}",) * 2
        assert_frozen(model.classifier)
        assert (model.family, model.architecture, model.training, model.loss) == ("unknown", "Net", "unknown", "ce")
        assert model.weights_sha256 == state_digest(model.classifier)
        assert torch.equal(model.classifier(images()), model.classifier(images())), "dropout is on"
        assert_frozen(load_model(f"own_nets_for_tests:{attribute}"))

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            (
                "own_nets_for_tests:none",
                "cannot be imported (module 'own_nets_for_tests' has no attribute 'none'): give",
            ),
            ("own_nets_for_tests:", "cannot be imported (module 'own_nets_for_tests' has no attribute ''): give"),
            ("no_such_module_at_all:make", "cannot be imported (No module named 'no_such_module_at_all'): give"),
            ("own_nets_for_tests:tired", "returned str: it must return a torch.nn.Module"),
            ("own_nets_for_tests:number", "is of type int: it must be a torch.nn.Module or return one"),
            (":make", "names no module before the colon: write my_package.nets:make, say"),
            ("..nets:make", "names no module before the colon: write my_package.nets:make, say"),
        ],
    )
    def test_what_is_no_module_is_refused(self, name: str, said: str) -> None:
        with pytest.raises(RequestError) as caught:
            load_model(name)
        assert str(caught.value).startswith(f"--model {name} ")
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("def make():\n    return 1 / 0\n", "could not be made (ZeroDivisionError: division by zero, {}, line 2)"),
            ("import numpyy\n", "cannot be imported (ModuleNotFoundError: No module named 'numpyy', {}, line 1)"),
            ("\nmake = undefined\n", "cannot be imported (NameError: name 'undefined' is not defined, {}, line 2)"),
            ("def make(:\n", "cannot be imported (SyntaxError: invalid syntax, {}, line 1)"),
            # The line of one's own, and not the one in torch that it leads to.
            ("import torch\n\ntorch.zeros(2) @ torch.zeros(3)\n", "cannot be imported (RuntimeError: inconsistent"),
            ("import torch\n\ntorch.nn.Linear(2, 3)(torch.zeros(5))\n", "{}, line 3)"),
            ("raise KeyError()\n", "cannot be imported (KeyError, {}, line 1)"),
        ],
    )
    def test_an_error_in_the_users_code_is_shown_where_it_is(self, tmp_path: Path, code: str, said: str) -> None:
        (tmp_path / "own_nets_for_tests.py").write_text(code)
        with pytest.raises(RequestError) as caught:
            load_model("own_nets_for_tests:make")
        assert said.format("own_nets_for_tests.py") in str(caught.value)
        assert str(caught.value).endswith(": mend it there")
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is not None

    def test_an_encoding_is_put_in_front_of_ones_own_network(self) -> None:
        plain, encoded = (
            load_model("own_nets_for_tests:ready", encoding=encoding) for encoding in (None, "normalize:bytes")
        )
        torch.testing.assert_close(encoded(images()), plain(255 * images()), rtol=1e-5, atol=1e-4)
        assert_frozen(encoded)
        (source,) = find_models("own_nets_for_tests:ready", Zoo(), "normalize:bytes")
        assert source.load().architecture == "Net"


def test_the_digest_of_a_state_depends_on_names_types_shapes_and_values() -> None:
    weight = torch.arange(6.0).reshape(2, 3)

    def digest(**buffers: Tensor) -> str:
        module = nn.Module()
        for name, tensor in buffers.items():
            module.register_buffer(name, tensor)
        return own_model("mine", freeze(module)).weights_sha256

    others = [
        digest(weights=weight),
        digest(weight=weight.reshape(3, 2)),
        digest(weight=weight.double()),
        digest(weight=weight + 1e-6),
        digest(weight=weight.flip(0)),
        digest(weight=weight, bias=torch.zeros(())),
        digest(),
    ]
    assert len({digest(weight=weight), *others}) == len(others) + 1
    assert digest(weight=weight) == digest(weight=weight.T.contiguous().T)


def test_models_are_listed_by_a_glob(tmp_path: Path) -> None:
    assert list_models() == sorted(Zoo().entries)
    assert list_models("nothing-*") == []
    write_card(tmp_path, name="digits-zzz")
    names = list_models("digits-*", zoo=tmp_path)
    assert names == [*list_models("digits-*"), "digits-zzz"]
    assert len(names) > 3


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_module_of_ones_own_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scripted_nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make():\n    return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 10)))\n"
    )
    monkeypatch.chdir(tmp_path)
    (source,) = find_models("scripted_nets:make", Zoo())
    model = source.load()
    assert model.architecture == "Sequential"
    assert not any(module.training for module in model.classifier.modules())
    assert not any(parameter.requires_grad for parameter in model.classifier.parameters())


# What is assumed of a weights file


def test_what_neither_the_file_nor_anybody_says_is_said(tmp_path: Path) -> None:
    file = Zoo()["digits-bcos-b2.5"].weights_file
    model = CheckpointModel(file=file, architecture="bcos_resnet8").load()
    assert model.assumed == "strides=bcos_resnet8 b=2 norm=batch-uncentred encoding=add_inverse"
    assert {"--argument b=1", "--argument b=2.5", "--argument norm=batch"} <= model.alternatives.keys()
    assert "--argument b=2" not in model.alternatives
    stated = CheckpointModel(
        file=file, architecture="bcos_resnet8", encoding="add_inverse", arguments={"b": 2.5, "norm": "batch-uncentred"}
    ).load()
    assert (stated.assumed, stated.alternatives) == ("strides=bcos_resnet8", {})


def test_what_was_assumed_goes_with_a_loaded_classifier_and_its_copies() -> None:
    file = Zoo()["digits-bcos-b2.5"].weights_file
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loaded = load_model(file, architecture="bcos_resnet8")
    kept = pickle.loads(pickle.dumps(copied(loaded)))
    for parameter in loaded.parameters():
        parameter.zero_()
    model = own_model("mine", kept)
    assert model.assumed == "strides=bcos_resnet8 b=2 norm=batch-uncentred encoding=add_inverse"
    for argument, stated in (("b=2.5", {"b": 2.5}), ("norm=batch", {"norm": "batch"})):
        expected = load_model(file, architecture="bcos_resnet8", **stated)
        torch.testing.assert_close(model.alternatives[f"--argument {argument}"]()(images), expected(images))


def test_what_was_assumed_goes_into_the_row_of_whatever_is_made_of_a_loaded_classifier() -> None:
    file = Zoo()["digits-bcos-b2.5"].weights_file
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loaded = load_model(file, architecture="bcos_resnet8")
    folded = fold(loaded)
    for made in (folded, nn.Sequential(nn.Identity(), loaded), nn.Sequential(folded, nn.Identity())):
        model = own_model("mine", made)
        assert model.assumed == "strides=bcos_resnet8 b=2 norm=batch-uncentred encoding=add_inverse"
        for argument, stated in (("b=2.5", {"b": 2.5}), ("norm=batch", {"norm": "batch"})):
            expected = load_model(file, architecture="bcos_resnet8", **stated)
            torch.testing.assert_close(model.alternatives[f"--argument {argument}"]()(images), expected(images))
    function = own_model("mine", Adapted(lambda images: loaded(images)))
    assert (function.assumed, function.alternatives) == (model.assumed, {})


class _Packed(nn.Linear):
    """Has more than tensors in its state, as quantised layers do."""

    def __init__(self, value: float) -> None:
        super().__init__(2, 2)
        self.packed = (torch.tensor([value]), torch.qint8)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def get_extra_state(self) -> object:
        return self.packed


def test_the_digest_of_a_state_is_of_all_that_is_in_it() -> None:
    assert state_digest(_Packed(1.0)) == state_digest(_Packed(1.0))
    assert len({state_digest(made) for made in (_Packed(1.0), _Packed(2.0), nn.Linear(2, 2))}) == 3


def test_an_alternative_is_the_model_with_that_argument_and_leaves_the_model_as_it_is() -> None:
    file = Zoo()["digits-bcos-b2.5"].weights_file
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assumed = CheckpointModel(file=file, architecture="bcos_resnet8").load()
    before = assumed.classifier(images)
    for argument, stated in (("b=2.5", {"b": 2.5}), ("norm=batch", {"norm": "batch"})):
        expected = CheckpointModel(file=file, architecture="bcos_resnet8", arguments=stated).load().classifier
        torch.testing.assert_close(assumed.alternatives[f"--argument {argument}"]()(images), expected(images))
    torch.testing.assert_close(assumed.classifier(images), before, rtol=0, atol=0)
