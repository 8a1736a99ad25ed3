"""A weights file for an architecture of the registry."""

from dataclasses import dataclass

from robustbench_bcos.model_zoo.architectures import ARCHITECTURES
from robustbench_bcos.model_zoo.checkpoints.load import load_checkpoint
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.sources.model import Model, WeightsFile, as_text


@dataclass(frozen=True, kw_only=True)
class CheckpointModel(WeightsFile):
    """A weights file for an architecture of the registry, whose arguments are inferred from the tensors.

    Without an encoding, that of a file that states none is ``add_inverse`` for six channels and ``none`` for three.
    """

    architecture: str

    def load(self) -> Model:
        """Read the tensors, infer the architecture's arguments, and load strictly."""
        loaded = load_checkpoint(
            self.file, self.architecture, encoding=self.encoding, arguments=self.arguments, ema=self.ema
        )
        architecture = ARCHITECTURES[self.architecture]
        return Model(
            name=self.name,
            family=architecture.family,
            architecture=self.architecture,
            arguments=loaded.arguments,
            trained_with=architecture.loss,
            weights_sha256=sha256_of(self.file),
            classifier=loaded.classifier,
            classes=loaded.classes,
            assumed=as_text(loaded.assumed),
            alternatives=loaded.alternatives,
        )
