"""Models of RobustBench: a stand-in for its package is asked as its documentation says, and what is wrong is told."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import Model, find_models, load_model
from tests.refusals import refused

REMEDY = "pip install git+https://github.com/RobustBench/robustbench"

PACKAGE = """
import torch

KNOWN = {("cifar10", "Linf"): ["Carmon2019Unlabeled"], ("imagenet", "L2"): ["Some_R50"]}

class Net(torch.nn.Module):
    def __init__(self, *asked):
        super().__init__()
        self.asked = asked
        self.scale = torch.nn.Parameter(torch.ones(10))

    def forward(self, images):
        return self.scale * images.flatten(1)[:, :10]

def load_model(model_name, model_dir="./models", dataset="cifar10", threat_model="Linf"):
    print("Downloading")
    if model_name == "Nothing":
        return None
    if model_name == "Refused":
        return torch.load("checkpoint.pt", weights_only=False)
    if model_name == "Broken":
        raise AttributeError("module 'gdown' has no attribute 'dowload'")
    names = {name: Net(name, dataset, threat_model) for name in KNOWN[dataset, threat_model]}
    return names[model_name]
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages in which RobustBench may be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
        monkeypatch.delitem(sys.modules, module)
    yield tmp_path
    for module in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
        del sys.modules[module]


def install(site: Path, *, utils: str = PACKAGE, package: str = "") -> None:
    (site / "robustbench").mkdir()
    (site / "robustbench" / "__init__.py").write_text(package)
    (site / "robustbench" / "utils.py").write_text(utils)


def found(name: str) -> Model:
    (source,) = find_models(name, Zoo())
    assert source.name == name
    return source.load()


def refusal(name: str) -> str:
    return refused(found, name)


@pytest.mark.parametrize(
    ("identity", "asked", "size"),
    [
        ("Carmon2019Unlabeled", ("Carmon2019Unlabeled", "cifar10", "Linf"), (32, 32)),
        ("cifar10/Linf/Carmon2019Unlabeled", ("Carmon2019Unlabeled", "cifar10", "Linf"), (32, 32)),
        ("imagenet/L2/Some_R50", ("Some_R50", "imagenet", "L2"), None),
    ],
)
def test_the_installed_package_is_asked_for_the_model(
    site: Path, identity: str, asked: tuple[str, ...], size: object, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site)
    model = found(f"robustbench:{identity}")
    assert model.classifier.asked == asked
    assert (model.name, model.family, model.architecture) == (f"robustbench:{identity}", "conventional", "Net")
    assert model.image_size == size
    assert not model.classifier.training
    assert not any(parameter.requires_grad for parameter in model.classifier.parameters())
    # What a package prints is not a result.
    assert capsys.readouterr().out == ""


def test_it_takes_the_image_itself_unless_an_encoding_is_stated(site: Path) -> None:
    install(site)
    images: Tensor = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = load_model("robustbench:Carmon2019Unlabeled")(images)
    assert torch.equal(plain, images.flatten(1)[:, :10])
    encoded = load_model("robustbench:Carmon2019Unlabeled", encoding="normalize:bytes")(images)
    torch.testing.assert_close(encoded, 255 * plain)


def test_without_robustbench_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    assert (
        refusal("robustbench:Some")
        == f"robustbench, which models of robustbench:NAME come from, is not installed: {REMEDY}"
    )


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("from autoattack import AutoAttack\n", "ModuleNotFoundError: No module named 'autoattack'"),
        ("raise ImportError('cannot import name x')\n", "ImportError: cannot import name x"),
        ("raise AttributeError('gone')\n", "AttributeError: gone"),
    ],
)
def test_a_robustbench_that_cannot_be_imported_shows_its_own_error(site: Path, package: str, said: str) -> None:
    install(site, package=package)
    assert refusal("robustbench:Some") == (
        f"the installed RobustBench cannot be imported ({said}, robustbench/__init__.py, line 1), and neither can its "
        f"release on the package index: {REMEDY}"
    )


def test_a_robustbench_that_has_no_such_function_is_told_so(site: Path) -> None:
    install(site, utils="")
    assert "cannot be imported (AttributeError: module 'robustbench.utils' has no attribute 'load_model'" in refusal(
        "robustbench:Some"
    )


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        ("Carmon2020", "cannot load Carmon2020 (it has no 'Carmon2020' for cifar10 and Linf): check the name"),
        ("Nothing", f"cannot load Nothing (it returned NoneType): {REMEDY}"),
        (
            "Broken",
            "cannot load Broken (AttributeError: module 'gdown' has no attribute 'dowload'): mend that, or give",
        ),
        ("cifar10/Carmon", "robustbench:cifar10/Carmon is no identity of a model: write robustbench:Carmon2019Unl"),
        ("", "robustbench: is no identity of a model"),
        ("cifar11/Linf/Some", "unknown dataset of RobustBench 'cifar11': did you mean 'cifar10'?"),
        ("cifar10/linf/Some", "unknown threat of RobustBench 'linf': did you mean 'Linf'?"),
    ],
)
def test_what_it_cannot_load_is_told_in_a_sentence(site: Path, identity: str, said: str) -> None:
    install(site)
    assert said in refusal(f"robustbench:{identity}")


class Program:
    """What a checkpoint must not be able to do."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.mkdir, (Path("marker"),)  # type: ignore[return-value]


def test_a_program_in_its_checkpoint_is_not_run(site: Path) -> None:
    install(site)
    torch.save(Program(), site / "checkpoint.pt")
    assert "cannot load Refused (UnpicklingError: " in refusal("robustbench:Refused")
    assert not (site / "marker").exists()
