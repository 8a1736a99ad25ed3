"""The example in the documentation of architectures works from a plug-in file and from an installed package."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.plugins import load_plugins
from robustbench_bcos.model_zoo import architectures

EXAMPLE, ENTRY_POINTS = map(textwrap.dedent, re.findall(r"::\n\n((?:    .*\n|\n)+)", (architectures.__doc__ or "")))

USE = """
import sys
from pathlib import Path
from robustbench_bcos.core.plugins import load_plugins
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, build_architecture
from robustbench_bcos.model_zoo.checkpoints.convert import CardFacts, convert
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.models import find_weights, load_model

load_plugins(map(Path, sys.argv[1:]))
assert {"tinynet", "bcos_tinynet"} <= set(ARCHITECTURES)
for name, channels, loss in (("tinynet", 3, "ce"), ("bcos_tinynet", 6, "bce")):
    network = build_architecture(name, in_channels=channels, classes=5, arguments={})
    write_weights(network, Path("weights.safetensors"))
    loaded = find_weights(Path("weights.safetensors"), name).load()
    assert (loaded.family, loaded.loss, loaded.classes) == ("bcos" if channels == 6 else "conventional", loss, 5)
    convert(Path("weights.safetensors"), name, Path("zoo"), CardFacts(image_size=(8, 8), licence="MIT"), name=name)
    assert type(load_model(name, zoo=Path("zoo")).network).__name__ == "TinyNet"
"""


def use(folder: Path, code: str = USE) -> str:
    paths = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    return done.stderr


def install(folder: Path, content: str) -> None:
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").touch()
    (folder / "my_package" / "tinynet.py").write_text(content)
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    group = ENTRY_POINTS.replace(
        'project.entry-points."robustbench_bcos.architectures"', "robustbench_bcos.architectures"
    )
    (info / "entry_points.txt").write_text(group.replace('"', ""))


def test_one_file_adds_an_architecture_of_both_families(tmp_path: Path) -> None:
    install(tmp_path, EXAMPLE)
    assert use(tmp_path) == ""


@pytest.mark.usefixtures("registries")
def test_it_may_be_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plugin = tmp_path / "tiny.py"
    plugin.write_text(EXAMPLE)
    monkeypatch.setattr(sys, "argv", ["", str(plugin)])
    exec(USE, {})


@pytest.mark.usefixtures("registries")
def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    plugin = tmp_path / "taken.py"
    plugin.write_text(EXAMPLE.replace('"tinynet"', '"resnet20"'))
    with pytest.raises(RequestError, match=r"architecture 'resnet20' is already registered as Architecture\("):
        load_plugins([plugin])


def test_a_broken_package_harms_nothing_else(tmp_path: Path) -> None:
    install(tmp_path, "raise OSError('no such device')")
    start = USE[: USE.index("load_plugins(map")]
    build = "build_architecture({!r}, in_channels=6, classes=5, arguments={{}})\n"
    told = "print('resnet20 is there', file=sys.stderr)\n"
    said = use(tmp_path, code=start + build.format("bcos_resnet20") + told + build.format("bcos_tinynet"))
    assert said.startswith("resnet20 is there\n")
    assert (
        "architecture 'bcos_tinynet' of my_package.tinynet cannot be imported (OSError: no such device): repair or"
        in said
    )
