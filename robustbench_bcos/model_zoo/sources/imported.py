"""Models of the user's own code: a callable of a module."""

import importlib
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robustbench_bcos.core.errors import RequestError, named_reason_of
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import parse_encoding
from robustbench_bcos.model_zoo.sources.model import Model, ModelSource, own_model

PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class ImportedModel(ModelSource):
    """``module:callable``, which returns a ``torch.nn.Module`` from images in [0, 1] to logits.

    The module is also searched in the working folder. This runs the user's code, at the user's request.
    """

    requested: str
    encoding: str | None = None
    """Encoding in front of the module; by default there is none."""

    @property
    def name(self) -> str:
        """``module:callable``."""
        return self.requested

    def load(self) -> Model:
        """Import, call and freeze."""
        made = self._imported()
        if not callable(made):
            raise RequestError(
                f"--model {self.name} is of type {type(made).__name__}: it must be a torch.nn.Module or return one"
            )
        classifier = made if isinstance(made, nn.Module) else self._called(made)
        if not isinstance(classifier, nn.Module):
            raise RequestError(
                f"--model {self.name} returned {type(classifier).__name__}: it must return a torch.nn.Module"
            )
        if self.encoding is not None:
            classifier = ImageClassifier(parse_encoding(self.encoding), classifier)
        return own_model(self.name, freeze(classifier))

    def _imported(self) -> object:
        module, _, attribute = self.name.partition(":")
        if not all(part.isidentifier() for part in module.split(".")):
            raise RequestError(f"--model {self.name} names no module before the colon: write my_package.nets:make, say")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            imported = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            place = where(error)
            reason = f"{named_reason_of(error)}, {place}" if place else str(error)
            remedy = "mend it there" if place else "give an importable module and a callable in it"
            raise RequestError(f"--model {self.name} cannot be imported ({reason}): {remedy}") from error
        if not hasattr(imported, attribute):
            raise RequestError(
                f"--model {self.name} cannot be imported (module {module!r} has no attribute {attribute!r}): give an "
                "importable module and a callable in it"
            )
        return getattr(imported, attribute)

    def _called(self, make: object) -> object:
        try:
            return make()  # type: ignore[operator]
        except (Exception, SystemExit) as error:
            reason = f"{named_reason_of(error)}, {where(error) or self.name}"
            raise RequestError(f"--model {self.name} could not be made ({reason}): mend it there") from error


def where(error: BaseException) -> str:
    """File and line of the user's code where an error was raised; empty if there is none.

    It is the innermost line outside Python and installed packages; if there is none, the innermost line of all.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _ours(frame.filename)]
    own = [frame for frame in frames if not _installed(frame.filename)]
    chosen = (own or frames)[-1:]
    return "".join(f"{_shown(frame.filename)}, line {frame.lineno}" for frame in chosen)


def is_own(error: BaseException) -> bool:
    """Whether a traceback passes through the user's code: outside Python, installed packages and this package."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    return any(not _ours(file) and not _installed(file) for file in files)


def _ours(file: str) -> bool:
    """Whether a file belongs to this package or to Python's import system."""
    return file.startswith("<frozen") or file == importlib.__file__ or Path(file).is_relative_to(PACKAGE)


def _installed(file: str) -> bool:
    paths = sysconfig.get_paths()
    return any(Path(file).is_relative_to(paths[kind]) for kind in ("stdlib", "purelib", "platlib"))


def _shown(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
