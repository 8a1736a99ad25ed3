"""Classifiers of torchvision and timm: found, built, fed and loaded as the libraries do it, and as data alone."""

import dataclasses
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.foreign import names_in_files
from robustbench_bcos.model_zoo.models import Model, find_models, find_weights, load_model
from robustbench_bcos.model_zoo.sources.library import FORCED, weights_only
from robustbench_bcos.model_zoo.sources.timm import Timm
from robustbench_bcos.model_zoo.sources.torchvision import Torchvision
from tests.refusals import refused

MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SMALL = "squeezenet1_1"
TINY = "test_resnet"


def images(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def found(name: str, encoding: str | None = None) -> Model:
    (source,) = find_models(name, Zoo(), encoding)
    model = source.load()
    assert source.name == model.name == name
    return model


def randomise(network: nn.Module) -> nn.Module:
    for seed, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)) / 8
            tensor.copy_(values.abs() + 0.1 if name.endswith("running_var") else values)
    return network.eval()


class Program:
    """What a checkpoint must not be able to do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.marker,)


# Names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision:resnt50", "torchvision.models has no classifier 'resnt50': did you mean resnet50 or "),
        ("torchvision:", "torchvision.models has no classifier '': torchvision.models.list_models() has them all"),
        ("torchvision:resnet50@V3", "unknown weights of torchvision:resnet50 'V3': choose from DEFAULT, IMAGENET1K_V1"),
        ("torchvision:maskrcnn_resnet50_fpn", "does not classify RGB images in floating point"),
        ("torchvision:r3d_18", "does not classify RGB images in floating point"),
        ("torchvision:quantized_resnet18", "does not classify RGB images in floating point"),
        ("timm:resnett18", "timm has no classifier 'resnett18': did you mean resnet18 or "),
        ("timm:resnet18.foo", "timm has no classifier 'resnet18.foo': did you mean resnet18."),
        ("timm:resnet18@foo", "timm has no classifier 'resnet18.foo': did you mean resnet18."),
        ("timm:aimv2_1b_patch14_224", "timm:aimv2_1b_patch14_224 gives features and no classes: choose a classifier"),
    ],
)
def test_a_name_that_is_no_classifier_is_refused_with_those_that_are(name: str, said: str) -> None:
    (source,) = find_models(name, Zoo())
    assert said in refused(source.load)
    assert said in refused(lambda: source.framing)
    assert len(refused(source.load)) < 400


def test_every_classifier_of_torchvision_has_the_facts_of_its_weights() -> None:
    library = Torchvision()
    for name in torchvision.models.list_models(module=torchvision.models):
        for weights in torchvision.models.get_model_weights(name):
            library.check(name, weights.name)
            preset = weights.transforms()
            spec = library.input_spec(name, weights.name)
            assert (list(spec.mean), list(spec.std)) == (preset.mean, preset.std)
            assert [spec.framing.crop[0]] == [spec.framing.crop[1]] == preset.crop_size
            assert [spec.framing.resize] == preset.resize_size
            assert torchvision.transforms.InterpolationMode(spec.framing.interpolation) == preset.interpolation


@pytest.mark.parametrize("name", ["resnet50", "resnet50.a1_in1k", "vit_tiny_patch16_224", "inception_v3", "test_vit2"])
def test_a_classifier_of_timm_has_the_facts_that_timm_resolves(name: str) -> None:
    library = Timm()
    library.check(name, "")
    spec = library.input_spec(name, "")
    with torch.no_grad():
        data = resolve_model_data_config(timm.create_model(name))
    assert (spec.mean, spec.std) == (data["mean"], data["std"])
    assert (3, *spec.framing.crop) == data["input_size"]
    assert spec.framing.resize == math.floor(data["input_size"][1] / data["crop_pct"])
    assert spec.framing.interpolation == data["interpolation"]


def test_every_classifier_of_timm_has_facts() -> None:
    library, named = Timm(), 0
    for name in timm.list_models(pretrained=True):
        if timm.get_pretrained_cfg(name).num_classes > 1:
            framing = library.input_spec(name, "").framing
            assert framing.resize is None or framing.resize >= min(framing.crop)
            named += 1
    assert named > 1000


# Random weights


@pytest.mark.parametrize(
    ("name", "size"), [(f"torchvision:{SMALL}@none", (224, 224)), (f"timm:{TINY}@none", (160, 160))]
)
def test_random_weights_are_the_same_on_every_call_and_spend_no_randomness(name: str, size: tuple[int, int]) -> None:
    state = torch.random.get_rng_state()
    one = found(name)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        other = found(name)
    assert one.weights_sha256 == other.weights_sha256
    assert (one.family, one.training, one.loss) == ("conventional", "random weights", "ce")
    assert find_models(name, Zoo())[0].framing.crop == size
    assert one.architecture == name.removesuffix("@none")
    assert not any(module.training for module in one.classifier.modules())
    assert not any(parameter.requires_grad for parameter in one.classifier.parameters())
    assert one.classifier(images()).shape == (2, 1000)


def test_the_encoding_is_the_librarys_unless_another_is_stated() -> None:
    network: Any = found(f"torchvision:{SMALL}@none").classifier
    expected = network.network((images() - MEAN) / STD)
    torch.testing.assert_close(network(images()), expected)
    torch.testing.assert_close(
        found(f"torchvision:{SMALL}@none", "none").classifier(images()), network.network(images())
    )
    torch.testing.assert_close(
        load_model(f"torchvision:{SMALL}@none", encoding="normalize:imagenet")(images()), expected
    )


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out_as_torchvision_leaves_them_out(name: str) -> None:
    with torch.device("meta"):
        network = Torchvision().build(name, {})
        whole = torchvision.models.get_model(name, init_weights=False)
    dropped = {key for key in whole.state_dict() if key not in network.state_dict()}
    assert dropped
    assert all("aux" in key.lower() for key in dropped)
    assert network.transform_input is True


# Weights of the library


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts content where torchvision's weights would come from, and a cache beside it; returns where they would lie."""
    hub = torch.hub.get_dir()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    assert torch.hub.get_dir() != hub

    def publish(content: object, *, digest: str | None = None, there: bool = True) -> Path:
        source = tmp_path / "source.pth"
        torch.save(content, source)
        name = f"{SMALL}-{digest or sha256_of(source)[:8]}.pth"
        served = source.rename(tmp_path / name)
        member = torchvision.models.get_model_weights(SMALL).IMAGENET1K_V1
        url = f"file://{served}" if there else f"https://weights.invalid/{name}"
        monkeypatch.setattr(member, "_value_", dataclasses.replace(member.value, url=url))
        return tmp_path / "hub" / "checkpoints" / name

    return publish


def test_weights_are_downloaded_once_checked_and_loaded(published: Any, capsys: pytest.CaptureFixture[str]) -> None:
    network = randomise(torchvision.models.get_model(SMALL))
    file = published(network.state_dict())
    for name in (f"torchvision:{SMALL}", f"torchvision:{SMALL}@IMAGENET1K_V1"):
        model = found(name)
        assert (model.training, model.weights_sha256) == ("unknown", sha256_of(file))
        torch.testing.assert_close(model.classifier(images()), network((images() - MEAN) / STD))
    assert capsys.readouterr().out == ""


def test_without_a_connection_it_says_where_the_weights_are_and_where_they_go(published: Any) -> None:
    file = published({}, there=False)
    said = refused(lambda: found(f"torchvision:{SMALL}"))
    assert said.startswith(f"the weights of torchvision:{SMALL} are not here and cannot be downloaded (")
    assert f": get them from https://weights.invalid/{file.name} and put them at {file}, or take random ones" in said
    file.write_bytes(b"another file")
    said = refused(lambda: found(f"torchvision:{SMALL}"))
    assert f"weights {file} have SHA-256 {sha256_of(file)}, and their name says {file.stem[-8:]}: delete" in said


def test_a_download_of_another_digest_is_not_kept(published: Any) -> None:
    file = published({}, digest="0123abcd")
    assert "cannot be downloaded (invalid hash value" in refused(lambda: found(f"torchvision:{SMALL}"))
    assert not file.exists()


@pytest.mark.parametrize("content", ["program", "other"])
def test_a_file_that_is_not_the_weights_is_refused_and_never_executed(
    published: Any, tmp_path: Path, content: str
) -> None:
    file = published(Program(tmp_path / "marker") if content == "program" else {"features.0.weight": torch.zeros(3)})
    said = refused(lambda: found(f"torchvision:{SMALL}"))
    assert said.startswith(f"weights {file} do not fit torchvision:{SMALL} (")
    assert not (tmp_path / "marker").exists()
    # It is what stands between the library and the program.
    if content == "program":
        torch.load(file, weights_only=False)
        assert (tmp_path / "marker").exists()


def test_the_switch_for_weights_alone_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORCED, raising=False)
    with weights_only():
        assert os.environ[FORCED] == "1"
    assert FORCED not in os.environ
    monkeypatch.setenv(FORCED, "0")
    with weights_only():
        assert os.environ[FORCED] == "1"
    assert os.environ[FORCED] == "0"


def test_weights_of_timm_are_taken_from_the_cache_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = randomise(timm.create_model(TINY))
    config = network.pretrained_cfg
    folder = tmp_path / f"models--{config['hf_hub_id'].replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("1234")
    (folder / "snapshots" / "1234").mkdir(parents=True)
    save_file(network.state_dict(), folder / "snapshots" / "1234" / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    for name in (f"timm:{TINY}", f"timm:{TINY}.{config['tag']}", f"timm:{TINY}@{config['tag']}"):
        model = found(name)
        assert model.training == "unknown"
        torch.testing.assert_close(model.classifier(images(160)), network((images(160) - mean) / std))


def test_without_a_connection_timm_says_where_its_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(key, "http://127.0.0.1:9")
    for key in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(key, raising=False)
    said = refused(lambda: found(f"timm:{TINY}"))
    assert said.startswith(f"the weights of timm:{TINY} cannot be had (")
    assert re.search(
        rf": get them from https://\S+/timm/{TINY}.r160_in1k/resolve/main/model.safetensors and give them with "
        rf"--weights FILE --architecture timm:{TINY}, or take random ones with timm:{TINY}@none$",
        said,
    )


def test_without_timm_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "robustbench_bcos.model_zoo.sources.timm")
    monkeypatch.setitem(sys.modules, "timm", None)
    said = "timm, which models of timm:NAME come from, is not installed: pip install timm"
    assert refused(lambda: find_models("timm:resnet18", Zoo())) == said
    assert refused(lambda: find_weights(Path("w.pth"), "timm:resnet18")) == said
    assert find_models("torchvision:resnet18", Zoo())


# A file for a network of a library


def of_file(file: Path, architecture: str, **stated: Any) -> Model:
    model = find_weights(file, architecture, **stated).load()
    assert (model.name, model.architecture, model.training) == (file.stem, architecture, "unknown")
    assert model.weights_sha256 == sha256_of(file)
    return model


@pytest.mark.parametrize("name", [SMALL, "densenet121", "mnasnet0_5", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_file_of_torchvisions_layout_gives_its_logits(name: str, kind: str, tmp_path: Path) -> None:
    network = randomise(torchvision.models.get_model(name, num_classes=7))
    file = tmp_path / f"mine.{kind}"
    if kind == "pth":
        # Old files lack counts of batches, and DenseNets had dots in the names of their layers.
        state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
        torch.save(
            {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): state[key] for key in state}
            if name == "densenet121"
            else state,
            file,
        )
    else:
        save_file(network.state_dict(), file)
    model = of_file(file, f"torchvision:{name}")
    torch.testing.assert_close(model.classifier(images()), network((images() - MEAN) / STD))


def test_a_file_with_auxiliary_heads_is_loaded_with_them(tmp_path: Path) -> None:
    network = randomise(
        torchvision.models.get_model("googlenet", num_classes=5, init_weights=False, transform_input=True)
    )
    torch.save(network.state_dict(), tmp_path / "net.pth")
    model = of_file(tmp_path / "net.pth", "torchvision:googlenet")
    torch.testing.assert_close(model.classifier(images()), network((images() - MEAN) / STD))


def test_a_file_of_timms_layout_gives_its_logits(tmp_path: Path) -> None:
    network = randomise(timm.create_model(TINY, num_classes=6))
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    model = of_file(tmp_path / "net.pth", f"timm:{TINY}")
    torch.testing.assert_close(model.classifier(images()), network((images() - mean) / std))
    assert find_weights(tmp_path / "net.pth", f"timm:{TINY}").framing.crop == (160, 160)


def test_what_is_stated_of_a_file_goes_before_what_is_found(tmp_path: Path) -> None:
    network = randomise(torchvision.models.get_model(SMALL, num_classes=7))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    stated = of_file(tmp_path / "net.pth", f"torchvision:{SMALL}", encoding="normalize:symmetric")
    torch.testing.assert_close(stated.classifier(images()), network(2 * images() - 1))
    loaded = load_model(tmp_path / "net.pth", architecture=f"torchvision:{SMALL}", num_classes=7)
    torch.testing.assert_close(loaded(images()), network((images() - MEAN) / STD))


@pytest.mark.parametrize(
    ("architecture", "stated", "said"),
    [
        ("torchvision:squeezenet1_0", {}, "do not fit the architecture"),
        ("torchvision:resnet18", {}, "do not fit the architecture: missing"),
        (f"torchvision:{SMALL}", {"arguments": {"num_classes": 3}}, "shape"),
        (
            f"torchvision:{SMALL}",
            {"arguments": {"widht": 3}},
            r"cannot be built with .*widht.*: give arguments it takes",
        ),
        ("torchvision:squezenet1_1", {}, "did you mean squeezenet1_1"),
        ("timm:resnet18", {}, "do not fit the architecture: missing"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    architecture: str, stated: dict[str, Any], said: str, tmp_path: Path
) -> None:
    torch.save(torchvision.models.get_model(SMALL, num_classes=7).state_dict(), tmp_path / "net.pth")
    assert re.search(said, refused(lambda: find_weights(tmp_path / "net.pth", architecture, **stated).load()))


def test_files_of_a_library_name_the_models_that_it_lists() -> None:
    classifiers = torchvision.models.list_models(module=torchvision.models)
    assert sorted(names_in_files("torchvision")) == sorted(classifiers)
    assert sorted(names_in_files("timm")) == sorted(timm.list_models())
