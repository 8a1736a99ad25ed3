"""The user's Python files, which register norms, attacks, losses, checks, datasets and the like before any check."""

import sys
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from robustbench_bcos.core.errors import RequestError, named_reason_of


def load_plugins(files: Iterable[Path]) -> dict[str, str]:
    """Import each file once; gives the SHA-256 of each by its name.

    A plug-in is a program of the user's, run because the user names it, as the module in ``--model module:callable``
    is. Nothing found in a data set, card, checkpoint or run folder is ever loaded this way.

    Raises:
        RequestError: a file is not there, is no Python file, fails while it is imported, or shares its name with
            another one.
    """
    digests: dict[str, str] = {}
    for file in files:
        digest = _load(file)
        if digests.setdefault(file.name, digest) != digest:
            raise RequestError(f"plugin is given two different files called {file.name}: rename one")
    return digests


def require_plugins(digests: Mapping[str, str]) -> None:
    """Refuse to go on without the plug-ins that something was made with.

    Args:
        digests: SHA-256 of each file by its name.

    Raises:
        RequestError: one of them has not been loaded, or another file of that name was.
    """
    for name, digest in digests.items():
        if _module(Path(name), digest) not in sys.modules:
            raise RequestError(
                f"this run was made with plugin {name} (SHA-256 {digest[:12]}...), which is not loaded: give it with "
                "--plugin, as it was"
            )


def _module(file: Path, digest: str) -> str:
    return f"robustbench_bcos_plugin_{file.stem}_{digest[:12]}"


def _load(file: Path) -> str:
    if not file.exists():
        raise RequestError(f"plugin {file} does not exist: check the path")
    if not file.is_file() or file.suffix != ".py":
        raise RequestError(f"plugin {file} is not a Python file: give the path of one that ends in .py")
    digest = sha256(file.read_bytes()).hexdigest()
    name = _module(file, digest)
    if name in sys.modules:
        return digest
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except RequestError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RequestError(f"plugin {file} cannot be imported ({named_reason_of(error)}): correct it") from error
    return digest
