"""Models of one's own: a callable of a module."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.sources.model import Model, own_model


@dataclass(frozen=True)
class ImportedModel:
    """``module:callable``, which returns a ``torch.nn.Module`` from images in [0, 1] to logits.

    The module is looked up in the working folder too. This runs the user's own code, because the user asked for it.
    """

    name: str

    def load(self) -> Model:
        """Import, call and freeze."""
        module, _, attribute = self.name.partition(":")
        if not all(part.isidentifier() for part in module.split(".")):
            raise RequestError(f"--model {self.name} names no module before the colon: write my_package.nets:make, say")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            made = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RequestError(
                f"--model {self.name} cannot be imported ({error}): give an importable module and a callable in it"
            ) from None
        if not callable(made):
            raise RequestError(
                f"--model {self.name} is of type {type(made).__name__}: it must be a torch.nn.Module or return one"
            )
        classifier = made if isinstance(made, nn.Module) else made()
        if not isinstance(classifier, nn.Module):
            raise RequestError(
                f"--model {self.name} returned {type(classifier).__name__}: it must return a torch.nn.Module"
            )
        return own_model(self.name, freeze(classifier))
