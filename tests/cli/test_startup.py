"""Start-up: what needs no torch is answered without it, and an attack waits for nothing that it does not need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import robustbench_bcos
from robustbench_bcos.core.version import VERSION

LIGHT = [
    ["--help"],
    ["run", "--help"],
    ["models"],
    ["models", "show", "digits-natural"],
    ["suites"],
    ["convert", "--help"],
    ["export", "--help"],
    ["train"],
    ["fetch", "official-*", "--dry-run"],
]
MISTAKES = [
    "run --norm l3",
    "run --eps abc",
    "run --suite nothing",
    "run --dataset nothing",
    "run --dataset folder:nowhere --model digits-natural",
    "run --dataset folder:nowhere --model torchvision:resnet50",
    "run --dataset cifar10 --data-dir nowhere",
    "run --dataset imagenet --data-dir nowhere",
    "run --model nothing",
    "run --model nowhere_at_all:make",
    "run --zoo nowhere",
    "run --norm linf --eps 8",
    "run --eps 100",
    "run --device gpu",
    "run --model os.path:join --encoding invert",
    "run --weights nothing.pt --architecture resnet56",
    "run --weights nothing.pt",
    "run --image-list nothing.txt --dataset folder:. --model digits-natural",
    "run --out taken --limit 4",
    "explain nothing.png --model digits-natural",
    "explain --dataset nothing --images 3 --model digits-natural",
    "report nowhere",
    "compare nowhere",
    "check nowhere --baseline nothing.csv",
    "curves nowhere",
    "train nothing",
    "train digits-natural --device gpu",
    "train digits-natural --dataset folder:nowhere",
    "export nothing --format onnx",
    "train --suite nothing",
    "models show nothing",
    "fetch nothing",
    "export digits-natural --format tflite",
    "fetch imagenet",
    "convert nothing.pt --architecture resnet56 --licence MIT --out mine",
]
SCRIPT = """
import sys
import robustbench_bcos
from robustbench_bcos.core.version import VERSION
assert "torch" not in sys.modules, "importing the package imports torch"
from robustbench_bcos.cli import main
for arguments in {light} + [line.split() for line in {mistakes}]:
    sys.argv = ["robustbench_bcos", *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, None, 2), end.code
    for heavy in ("torch", "torchvision", "sklearn", "matplotlib"):
        assert heavy not in sys.modules, f"{{arguments}} imports {{heavy}}"

from robustbench_bcos.bench.stages.attack import _Stage


def begin(*_):
    heavy = {{"sklearn", "scipy.stats", "statsmodels", "pandas", "matplotlib", "jinja2", "captum"}} & set(sys.modules)
    assert not heavy, f"imported before the first attack: {{heavy}}"
    raise KeyboardInterrupt


_Stage.attack = begin
sys.argv = ["robustbench_bcos", "run", "--model", "digits-natural", "--limit", "2", "--no-figures", "--out", {out!r}]
main()
"""


def test_help_lists_and_plain_mistakes_import_no_torch_and_attacks_little_else(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    script = [sys.executable, "-c", SCRIPT.format(light=LIGHT, mistakes=MISTAKES, out=str(tmp_path / "run"))]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "digits-bcos-b2" in done.stdout
    assert done.stderr.count("error: ") == len(MISTAKES)
    assert "interrupted after 0 of " in done.stderr


@pytest.mark.parametrize("name", robustbench_bcos.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(robustbench_bcos, name) is not None
    assert name in dir(robustbench_bcos)


def test_the_promised_names_are_public() -> None:
    assert {"evaluate", "load_model", "freeze", "PGD", "NORMS", "LOSSES", "ATTACKS", "CRITERIA", "__version__"} <= set(
        robustbench_bcos.__all__
    )
    assert set(robustbench_bcos.NORMS) >= {"l2", "linf"}
    assert robustbench_bcos.__version__ == VERSION


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'robustbench_bcos' has no attribute 'evalute'"):
        _ = robustbench_bcos.evalute
