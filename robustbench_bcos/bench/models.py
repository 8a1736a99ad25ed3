"""The models of a run in memory: each is loaded and copied once, as far as memory allows."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from robustbench_bcos.bench.batch_size import memory_of
from robustbench_bcos.model_zoo.models import Model, ModelSource

SHARE = 0.1
"""Part of a machine's memory that models which are not in use may keep."""


class ModelCache:
    """Models by name, the ones used last; threads may share it.

    Args:
        prepare: what is done to a model that has been loaded, once.
    """

    def __init__(self, prepare: Callable[[Model], Model]) -> None:
        self._prepare = prepare
        # One at a time: libraries draw a network's first weights from the global generator.
        self._lock = Lock()
        self._models: OrderedDict[str, Model] = OrderedDict()

    def get(self, source: ModelSource) -> Model:
        """The model of a source, loaded where it is not here."""
        with self._lock:
            model = self._models.pop(source.name, None) or self._prepare(source.load())
            self._models[source.name] = model
            self._forget(model)
            return model

    def _forget(self, latest: Model) -> None:
        """Drop the least recently used models until the others fit."""
        device = next(latest.classifier.parameters(), None)
        if device is None:
            return
        room = SHARE * memory_of(device.device)
        while len(self._models) > 1 and sum(map(_bytes, self._models.values())) > room:
            self._models.popitem(last=False)


def _bytes(model: Model) -> int:
    # Twice: the model and its fast copy.
    return 2 * sum(parameter.nbytes for parameter in model.classifier.parameters())
