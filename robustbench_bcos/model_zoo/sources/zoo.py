"""Models that have a card."""

from dataclasses import dataclass

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Framing
from robustbench_bcos.model_zoo.cards import Entry
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.checkpoints.kind import check_kind
from robustbench_bcos.model_zoo.checkpoints.layouts import agree, read_checkpoint
from robustbench_bcos.model_zoo.classifier import build_classifier, freeze
from robustbench_bcos.model_zoo.sources.model import Model, ModelSource


@dataclass(frozen=True)
class ZooModel(ModelSource):
    """A model with a card."""

    entry: Entry

    @property
    def name(self) -> str:
        """The card's name."""
        return self.entry.card.name

    @property
    def framing(self) -> Framing | None:
        """As the card says."""
        return self.entry.card.framing

    @property
    def dataset(self) -> str:
        """As the card says."""
        return self.entry.card.dataset

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """As the card says."""
        return self.entry.card.class_names

    def load(self) -> Model:
        """Build the card's architecture and load its weights."""
        card = self.entry.card
        digest = self.entry.check_weights()
        classifier = build_classifier(card)
        file = self.entry.weights_file
        checkpoint = read_checkpoint(file, kind=card.weights.format, ema=card.weights.ema)
        if checkpoint.encoding is not None and not agree(card.encoding, checkpoint.encoding):
            raise RequestError(
                f"card {card.name!r} states encoding {card.encoding.kind} {card.encoding.constants or ''} and weights "
                f"{file} have normalize {checkpoint.encoding.constants}: write the latter on the card"
            )
        check_kind(classifier.network, file)
        assign_weights(classifier.network, checkpoint.tensors, file)
        return Model(
            name=card.name,
            family=card.family,
            architecture=card.architecture,
            arguments=card.arguments,
            training=str(card.training),
            trained_with=card.loss,
            weights_sha256=digest,
            classifier=freeze(classifier),
            image_size=card.image_size,
            classes=card.classes,
        )
