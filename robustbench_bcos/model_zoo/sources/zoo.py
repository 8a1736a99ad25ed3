"""Models that have a card."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Framing
from robustbench_bcos.model_zoo import CLIP
from robustbench_bcos.model_zoo.cards import Entry, TextsSpec
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.checkpoints.kind import check_kind
from robustbench_bcos.model_zoo.checkpoints.layouts import agree, read_checkpoint
from robustbench_bcos.model_zoo.classifier import build_classifier, freeze
from robustbench_bcos.model_zoo.prompts import PLACE, Prompts, read_templates
from robustbench_bcos.model_zoo.sources.clip import text_tower
from robustbench_bcos.model_zoo.sources.model import Model, ModelSource, state_digest
from robustbench_bcos.model_zoo.texts import TEXT_ENCODERS
from robustbench_bcos.model_zoo.zero_shot import prototypes_for, zero_shot_of


@dataclass(frozen=True)
class ZooModel(ModelSource):
    """A model with a card."""

    entry: Entry
    templates: str | tuple[str, ...] | None = None
    """Where classes are texts, what they are put into in place of the card's templates."""
    classes: tuple[str, ...] = ()
    """In place of the card's."""

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
        """As the card says, unless classes are texts."""
        return self.entry.card.class_names if self.entry.card.texts is None else None

    @property
    def texts(self) -> tuple[str, ...] | None:
        """Those that were asked for, or the card's."""
        said = self.entry.card.texts
        return None if said is None else self.classes or said.classes

    def for_classes(self, names: Sequence[str]) -> ModelSource:
        """The names of a dataset's classes, in templates."""
        return self if self.texts is None or self.classes else replace(self, classes=tuple(names))

    def for_texts(self, texts: Sequence[str]) -> ModelSource:
        """Texts as they are."""
        if self.texts is None:
            return super().for_texts(texts)
        return replace(self, classes=tuple(texts), templates=(PLACE,))

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
        if card.texts is None:
            prompts = None
        else:
            prompts = self._prompts(card.texts)
            network = zero_shot_of(classifier)
            # Rounding changes their length.
            network.compare_with(network.prototypes)
            if prompts != Prompts(card.texts.classes, card.texts.templates):
                network.compare_with(prototypes_for(prompts, _encoder_of(card.texts.encoder)))
                digest = state_digest(classifier)
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
            classes=card.classes if prompts is None else len(prompts.classes),
            texts="" if prompts is None else str(prompts),
        )

    def _prompts(self, said: TextsSpec) -> Prompts:
        templates = said.templates if self.templates is None else read_templates(self.templates)
        return Prompts(self.classes or said.classes, templates)


def _encoder_of(name: str) -> Callable[[list[str]], Tensor]:
    """What gives features of texts, by its name on a card."""
    prefix, _, tower = name.partition(":")
    return text_tower(tower) if prefix == CLIP else TEXT_ENCODERS[name].features
