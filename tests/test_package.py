"""The wheel: whole, alone, and deaf to folders that happen to be called like our sub-packages."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import robustbench_bcos

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "robustbench_bcos"
LINKS = ("attacks", "model_zoo", "reports")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since building writes into its source."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for link in LINKS:
        (source / link).symlink_to(PACKAGE.name + "/" + link)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    folder = wheel.parent / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working folder with packages called like ours, which nobody must import."""
    for name in (*LINKS, "core", "data", "bench"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('imported the wrong {name}')")
    return tmp_path


def run(code_or_module: list[str], folder: Path, path: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *code_or_module], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_links_lead_to_the_sub_packages() -> None:
    for link in LINKS:
        assert (ROOT / link).is_symlink()
        assert (ROOT / link).resolve() == PACKAGE / link


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    wanted = {
        str(file.relative_to(ROOT)) for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_every_module_is_imported_from_the_wheel_wherever_python_starts(installed: Path, hostile: Path) -> None:
    code = (
        "import importlib, pkgutil, robustbench_bcos as package\n"
        "names = [m.name for m in pkgutil.walk_packages(package.__path__, 'robustbench_bcos.')]\n"
        "homes = {importlib.import_module(n).__file__ for n in names if not n.endswith('__main__')}\n"
        "print(len(names), all(home.startswith(package.__path__[0]) for home in homes), package.__path__[0])\n"
        "print(type(package.explain).__name__, package.explain.__module__)"
    )
    count, inside, home, kind, module = run(["-c", code], hostile, installed).split()
    assert int(count) > 50
    assert inside == "True"
    assert Path(home).parent == installed
    # With every module imported: a sub-package called like the function would have taken its place by now.
    assert (kind, module) == ("function", "robustbench_bcos.explanations.explanation")


@pytest.mark.parametrize("name", robustbench_bcos.__all__)
def test_no_public_name_is_that_of_a_sub_package(name: str) -> None:
    assert not (PACKAGE / name).exists()
    assert not (PACKAGE / f"{name}.py").exists()


def test_the_command_runs_beside_folders_called_like_ours(installed: Path, hostile: Path) -> None:
    assert "digits-bcos-b2" in run(["-m", "robustbench_bcos", "models"], hostile, installed)


def test_the_command_runs_from_the_checkout(tmp_path: Path) -> None:
    assert "tables-l2" in run(["-m", "robustbench_bcos", "suites"], ROOT, tmp_path)
