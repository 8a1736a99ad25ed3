"""Start-up: what needs no torch is answered without it, and an attack waits for nothing that it does not need."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import robustbench_bcos
from robustbench_bcos.core.version import VERSION
from tests.cli.command_line import succeed

NO_GPU = not torch.cuda.is_available()
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
    ["report", "done", "--no-figures"],
    ["report", "done", "--format", "latex"],
    ["compare", "done", "--filter", "norm == 'l2'"],
    ["check", "done", "--baseline", "done/results.csv"],
    ["run", "--status", "done"],
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
    "run --option nothing=1 --model digits-natural",
    "run --attack square --option p_init=7 --model digits-natural",
    "run --target nothing --model digits-natural",
    "run --target 10 --model digits-natural",
    "run --goal explanation --attack square --model digits-natural",
    "run --resize 32 --model digits-natural",
    "run --dataset idx:nowhere --norm linf --eps 0.1 --model digits-natural",
    "run --status damaged",
    "localise --status done",
    "localise --option nothing=1 --model digits-natural",
    "localise --game nothing",
    "localise --dataset folder:nowhere",
    "report nowhere",
    "report damaged",
    "compare nowhere",
    "compare damaged",
    "compare damaged damaged",
    "compare text.csv",
    "compare text.csv --format docx",
    "compare text.csv --by nothing",
    "compare done --sort nothing",
    "compare done --reference nothing",
    "compare done --filter nothing",
    "compare done --by family --reference nothing",
    "compare done --across-seeds --measure nothing",
    "report done --images 9 --no-figures",
    "report done --images 9",
    "report done --robustbench json",
    "check done --baseline text.csv",
    "run --cancel done",
    "check nowhere --baseline nothing.csv",
    "check damaged --baseline text.csv",
    "check text.csv --baseline text.csv --tolerance abc",
    "explain text.csv --model digits-natural",
    "bcosify nothing --out mine",
    "bcosify nothing.pt --out mine",
    "bcosify digits-natural --dataset nothing --out mine",
    "export nothing.pt --format onnx",
    "export digits-natural --format onnx --dataset nothing",
    "export digits-natural --format onnx nothing.png",
    "train digits-natural --dataset nothing",
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
    "localise --game masks --cells 9",
    "run --weights garbage.pt --architecture resnet56",
    "run --model robustbench:a/b",
    "run --model robustbench:nothing/Linf/x",
    "run --model timm:",
    "run --model onnx:nothing.onnx",
    "run --limit 1000",
    "run --images 364",
    "run --goal explanation --explained 0",
    "explain --dataset digits --images 1000 --model digits-natural",
    "explain --dataset digits --images 3 --model digits-natural --target ten",
    "explain --dataset digits --images 3 --model digits-natural --text dog",
    "export garbage.pt --architecture resnet8 --format onnx",
    "convert garbage.pt --image-size 8 --architecture resnet8 --licence MIT --out mine",
    "dynamics run nowhere",
    "dynamics explain nothing.toml",
    "check text.csv --baseline text.csv --gate nothing",
    "convert nothing.pt --architecture resnet56 --licence MIT --out mine",
    "convert some.safetensors --architecture nothing --image-size 8 --licence MIT --out mine",
    "run --weights some.safetensors --architecture nothing",
    "run --weights some.safetensors --architecture resnet8 --argument nothing=1",
    "run --weights some.safetensors --architecture torchvision:resnet999",
    "explain text.csv --weights some.safetensors --architecture nothing",
    "run --model torchvision:resnet999",
    "run --model timm:resnet999",
    "run --model clip:nothing",
    "run --model robustbench:Rade999",
    "run --dataset folder:pictures --limit 9 --norm l2 --eps 1 --model digits-natural",
    "run --dataset folder:pictures --images 9 --norm l2 --eps 1 --model digits-natural",
    "localise --budget grid --protocol windowed",
    "localise --game masks --dataset folder:pictures",
    *(["run --device cuda:7", "localise --device cuda", "train digits-natural --device cuda"] * NO_GPU),
]
SCRIPT = """
import os
import sys
import robustbench_bcos
from robustbench_bcos.core.version import VERSION
assert "torch" not in sys.modules, "importing the package imports torch"
from robustbench_bcos.cli import main


NEEDLESS = {{"sklearn", "scipy.stats", "statsmodels", "captum", "matplotlib.pyplot"}}
NEEDLESS |= {{"torchvision", "torchmetrics", "torch._dynamo", "sympy", "jaxtyping"}}
RUN = ["robustbench_bcos", "run", "--model", "digits-natural", "--limit", "2"]


def begin(*_):
    heavy = (NEEDLESS | {{"pandas", "matplotlib", "jinja2"}}) & set(sys.modules)
    assert not heavy, f"imported before the first attack: {{heavy}}"
    raise KeyboardInterrupt


# In processes of their own, because these import torch, and reports pandas.
if (attack := os.fork()) == 0:
    from robustbench_bcos.bench.stages.attack import _Stage

    _Stage.attack = begin
    sys.argv = [*RUN, "--no-figures", "--out", {out!r}]
    main()

if (whole := os.fork()) == 0:
    sys.argv = [*RUN, "--steps", "1", "--quiet", "--out", {out!r} + " with evidence and figures"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    assert not NEEDLESS & set(sys.modules), f"a run imports {{NEEDLESS & set(sys.modules)}}"
    sys.exit()

def answer(arguments, *heavy):
    sys.argv = ["robustbench_bcos", *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, None, 2), end.code
    for module in heavy:
        assert module not in sys.modules, f"{{arguments}} imports {{module}}"


HEAVY = "torch", "torchvision", "sklearn", "matplotlib", "jaxtyping"
first, *others = [line.split() for line in {mistakes}]
answer(first, *HEAVY, "numpy")
for arguments in {light} + others:
    answer(arguments, *HEAVY)
codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in (whole, attack)]
assert codes[0] == 0, "the whole run fails"
sys.exit(codes[1])
"""


def test_help_lists_reports_and_plain_mistakes_import_no_torch_and_runs_little_else(
    tmp_path: Path, tiny_zoo: Path
) -> None:
    succeed("run", "--zoo", tiny_zoo, "--limit", 2, "--steps", 1, "--evidence", "off", "--no-figures", "--out", "done")
    (tmp_path / "pictures" / "class").mkdir(parents=True)
    shutil.copyfile(next(tiny_zoo.glob("*.safetensors")), tmp_path / "some.safetensors")
    (tmp_path / "taken").touch()
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    (tmp_path / "text.csv").write_text("a,b\n")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
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
