"""Models of RobustBench, loaded by an installed RobustBench."""

import importlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from robustbench_bcos.core.errors import RequestError, named_reason_of
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import parse_encoding
from robustbench_bcos.model_zoo.foreign import NEEDED, ROBUSTBENCH, Identity, check_installed
from robustbench_bcos.model_zoo.sources.imported import where
from robustbench_bcos.model_zoo.sources.library import weights_only
from robustbench_bcos.model_zoo.sources.model import Model, ModelSource, own_model

REMEDY = f"pip install {NEEDED[ROBUSTBENCH][1]}"
CIFAR_SIZE = (32, 32)


@dataclass(frozen=True)
class RobustBenchModel(ModelSource):
    """``robustbench:ID``. Its own code builds the model, downloads weights into ``models`` and loads them."""

    requested: str
    encoding: str | None = None
    """Encoding in front of the model; RobustBench's models take images in [0, 1] and need none."""

    @property
    def name(self) -> str:
        """As written in the request."""
        return f"robustbench:{self.requested}"

    def load(self) -> Model:
        """Ask the installed package; no file makes it execute anything."""
        identity = Identity.parse(self.requested)
        load = _loader()
        try:
            with weights_only(), redirect_stdout(sys.stderr):
                classifier = load(model_name=identity.name, dataset=identity.dataset, threat_model=identity.threat)
        except KeyError as error:
            raise self._failed(
                f"it has no {error} for {identity.dataset} and {identity.threat}", "check the name"
            ) from error
        except Exception as error:
            raise self._failed(
                named_reason_of(error),
                "mend that, or give the weights with --weights and --architecture, if this package has it",
            ) from error
        if not isinstance(classifier, nn.Module):
            raise self._failed(f"it returned {type(classifier).__name__}", f"{REMEDY}")
        if self.encoding is not None:
            classifier = ImageClassifier(parse_encoding(self.encoding), classifier)
        size = CIFAR_SIZE if identity.dataset.startswith("cifar") else None
        return replace(own_model(self.name, freeze(classifier)), family="conventional", image_size=size)

    def _failed(self, reason: str, remedy: str) -> RequestError:
        return RequestError(f"the installed RobustBench cannot load {self.requested} ({reason}): {remedy}")


def _loader() -> Callable[..., Any]:
    check_installed(ROBUSTBENCH)
    try:
        load: Callable[..., Any] = importlib.import_module("robustbench.utils").load_model
    except Exception as error:
        raise RequestError(
            f"the installed RobustBench cannot be imported ({type(error).__name__}: {error}, {where(error)}), and "
            f"neither can its release on the package index: {REMEDY}"
        ) from error
    return load
