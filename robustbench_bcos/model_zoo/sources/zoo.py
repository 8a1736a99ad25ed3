"""Models that have a card."""

from dataclasses import dataclass

from robustbench_bcos.model_zoo.cards import Entry
from robustbench_bcos.model_zoo.classifier import build_classifier, freeze
from robustbench_bcos.model_zoo.sources.model import Model
from robustbench_bcos.model_zoo.weights import load_weights, read_weights


@dataclass(frozen=True)
class ZooModel:
    """A model with a card."""

    entry: Entry

    @property
    def name(self) -> str:
        """The card's name."""
        return self.entry.card.name

    def load(self) -> Model:
        """Build what the card says and load the weights it names."""
        card = self.entry.card
        digest = self.entry.check_weights()
        classifier = build_classifier(card)
        tensors = read_weights(self.entry.weights_file, kind=card.weights.format)
        load_weights(classifier.network, tensors, self.entry.weights_file)
        return Model(
            card.name,
            card.family,
            card.architecture,
            str(card.training),
            "ce" if card.loss == "ce" else "bce",
            digest,
            freeze(classifier),
            card.image_size,
            card.classes,
        )
