"""Models ready to be attacked, wherever they come from: the zoo, a checkpoint, one's own code."""

from pathlib import Path
from typing import Any

from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.sources.checkpoint import CheckpointModel
from robustbench_bcos.model_zoo.sources.imported import ImportedModel
from robustbench_bcos.model_zoo.sources.model import Model, ModelSource, own_model, state_digest
from robustbench_bcos.model_zoo.sources.zoo import ZooModel

__all__ = [
    "CheckpointModel",
    "ImportedModel",
    "Model",
    "ModelSource",
    "ZooModel",
    "find_models",
    "load_model",
    "own_model",
    "state_digest",
]


def find_models(pattern: str, zoo: Zoo) -> list[ModelSource]:
    """Sources for one ``--model``: a name, a glob over the zoo, or ``module:callable``.

    Raises:
        RequestError: nothing of that name.
    """
    if ":" in pattern:
        return [ImportedModel(pattern)]
    return [ZooModel(entry) for entry in zoo.matching(pattern)]


def load_model(
    name_or_path: str | Path,
    *,
    architecture: str | None = None,
    encoding: str | None = None,
    zoo: Path | None = None,
    **arguments: Any,  # noqa: ANN401 (an architecture's own arguments)
) -> nn.Module:
    """A frozen classifier from images in [0, 1] to logits.

    Args:
        name_or_path: a zoo name, ``module:callable``, or a weights file.
        architecture: what a weights file was made with.
        encoding: overrides the encoding read from a weights file.
        zoo: a folder with further cards.
        arguments: override what cannot be read from a weights file, such as ``b`` and ``norm``.

    Raises:
        RequestError: there is no such model, or its weights are not what they should be.
    """
    if architecture is not None:
        return CheckpointModel(Path(name_or_path), architecture, encoding, arguments).load().classifier
    if Path(name_or_path).is_file():
        raise RequestError(f"{name_or_path} is a file: name the architecture of the weights in it, bcos_resnet20, say")
    if encoding is not None or arguments:
        raise RequestError(
            f"encoding and arguments ({', '.join(arguments) or 'none'}) go with a weights file and its architecture: "
            f"model {name_or_path!r} has its own"
        )
    found = find_models(str(name_or_path), Zoo([zoo] if zoo else []))
    if len(found) > 1:
        raise RequestError(f"{name_or_path!r} names {len(found)} models: load one at a time")
    return found[0].load().classifier
