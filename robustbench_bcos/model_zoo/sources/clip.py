"""Vision-language models of open_clip, an optional dependency: the image tower, and texts as classes.

Files of published B-cosified image towers (Arya et al., 2024) are loaded beside the text tower that they learned from.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.framing import Framing, Interpolation
from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.model_zoo import CLIP
from robustbench_bcos.model_zoo.architectures.bcosified import placed
from robustbench_bcos.model_zoo.bcosify.build import converted
from robustbench_bcos.model_zoo.bcosify.image_layers import replace_weight
from robustbench_bcos.model_zoo.bcosify.layers.attention_pool import PooledTokens
from robustbench_bcos.model_zoo.cards import BcosifiedSpec, TextsSpec
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.checkpoints.layouts import read_checkpoint
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AbstractEncoding, Normalize, NormalizeAddInverse, parse_encoding
from robustbench_bcos.model_zoo.foreign import check_installed, not_listed
from robustbench_bcos.model_zoo.prompts import PLAIN, Prompts, read_templates
from robustbench_bcos.model_zoo.sources.library import RANDOM, SEED, weights_only
from robustbench_bcos.model_zoo.sources.model import UNKNOWN, Model, ModelSource, own_model
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork, prototypes_for

BATCH = 256
"""Texts that are encoded together."""

PUBLISHED_B = 2.0
"""Of published B-cosified image towers."""


@dataclass(frozen=True)
class ClipModel(ModelSource):
    """``clip:NAME``, with ``@`` and a tag of its weights, or ``@none`` for random ones; attacks see fixed texts."""

    requested: str
    templates: "str | tuple[str, ...] | None" = None
    """By default the plain one."""
    encoding: str | None = None
    """In place of what open_clip says."""
    classes: tuple[str, ...] = ()
    """What is put into templates; those of the dataset where nothing was stated."""

    @property
    def name(self) -> str:
        """As written in the request."""
        return f"clip:{self.requested}"

    @property
    def framing(self) -> Framing:
        """As open_clip prepares pictures: the shorter side resized, and the middle cut out."""
        settings, size = self._settings, self._size
        interpolation: Interpolation = "bilinear" if settings.get("interpolation") == "bilinear" else "bicubic"
        return Framing(resize=min(size), crop=size, interpolation=interpolation)

    def for_classes(self, names: Sequence[str]) -> ModelSource:
        """The names of a dataset's classes, in templates."""
        return self if self.classes else replace(self, classes=tuple(names))

    def for_texts(self, texts: Sequence[str]) -> ModelSource:
        """Texts as they are."""
        return replace(self, classes=tuple(texts), templates=("{}",))

    @property
    def texts(self) -> tuple[str, ...] | None:
        """What was stated."""
        return self.classes or None

    def load(self) -> Model:
        """Build both towers, encode the texts, and keep the image tower."""
        if not self.classes:
            raise RequestError(
                f"model {self.name!r} compares images with texts, and there are none: give names of classes, "
                "or texts to explain"
            )
        library, (name, tag) = open_clip(), self._checked()
        prompts = Prompts(self.classes, self._templates)
        tokenizer = library.get_tokenizer(name)
        for texts in prompts.of_classes:
            _check_lengths(tokenizer, texts)
        both = _towers(library, name, tag)
        prototypes = prototypes_for(prompts, partial(_encoded, both, tokenizer))
        bias = getattr(both, "logit_bias", None)
        settings = {"scale": float(both.logit_scale.detach().exp()), "bias": 0.0 if bias is None else float(bias)}
        encoding, tower = self._seen(both.visual)
        network = ZeroShotNetwork(tower, prototypes, **settings)
        model = own_model(self.name, freeze(ImageClassifier(encoding, network)))
        return replace(
            model,
            family="conventional",
            architecture=f"clip:{name}",
            training="random weights" if tag == RANDOM else f"image-text pairs, {tag}",
            trained_with=TrainingLoss.CE if bias is None else TrainingLoss.BCE,
            image_size=self._size,
            classes=len(prompts.classes),
            texts=str(prompts),
        )

    def _seen(self, visual: Any) -> tuple[AbstractEncoding, nn.Module]:  # noqa: ANN401 (open_clip has no types)
        """What images go through."""
        settings = self._settings
        encoding = Normalize(settings["mean"], settings["std"])
        return encoding if self.encoding is None else parse_encoding(self.encoding), tower_of(visual)

    def spec_of(self, network: ZeroShotNetwork) -> TextsSpec:
        """What a card says of the texts that a network of this model compares images with."""
        name, tag = self._checked()
        return TextsSpec(
            encoder=f"{CLIP}:{name}@{tag}",
            width=network.prototypes.shape[1],
            scale=network.scale,
            bias=network.bias,
            classes=self.classes,
            templates=self._templates,
        )

    @property
    def _templates(self) -> tuple[str, ...]:
        return read_templates(PLAIN if self.templates is None else self.templates)

    def _checked(self) -> tuple[str, str]:
        """Name and tag; without a tag, the first that open_clip has."""
        library = open_clip()
        name, _, tag = self.requested.partition("@")
        known = library.list_models()
        if name not in known:
            raise not_listed("open_clip", name, known)
        tags = library.list_pretrained_tags_by_model(name)
        if not tag and not tags:
            raise RequestError(f"open_clip has no weights of {name}: clip:{name}@{RANDOM} has random ones")
        if tag not in ("", RANDOM, *tags):
            raise not_listed(f"open_clip's {name}", tag, [*tags, RANDOM])
        return name, tag or tags[0]

    @property
    def _settings(self) -> dict[str, Any]:
        """Normalisation and interpolation of the weights, or of open_clip's default."""
        library, (name, tag) = open_clip(), self._checked()
        stated = {} if tag == RANDOM else library.get_pretrained_cfg(name, tag) or {}
        default = {"mean": library.OPENAI_DATASET_MEAN, "std": library.OPENAI_DATASET_STD}
        return {**default, **stated}

    @property
    def _size(self) -> tuple[int, int]:
        name, _ = self._checked()
        size = open_clip().get_model_config(name)["vision_cfg"]["image_size"]
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return int(height), int(width)


@dataclass(frozen=True)
class ClipCheckpoint(ClipModel):
    """A file of the image tower of ``clip:NAME``, B-cosified as published, beside the text tower as it was.

    Files without projections to queries and keys have a feature for each place.
    """

    file: Path = field(kw_only=True)
    arguments: Mapping[str, Any] = field(kw_only=True, default_factory=dict)
    """``b``, which no file states."""
    ema: bool = field(kw_only=True, default=False)
    """Whether to take the moving average of the weights."""

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.file.stem

    def load(self) -> Model:
        """Load the file strictly."""
        if surplus := sorted({*self.arguments} - {"b"}):
            raise RequestError(f"architecture clip:{self.requested!r} takes no argument {surplus[0]!r}: it takes b")
        b = self.arguments.get("b", PUBLISHED_B)
        return replace(
            super().load(),
            family="bcos",
            arguments={"b": b},
            training=UNKNOWN,
            assumed="" if "b" in self.arguments else f"b={PUBLISHED_B:g}",
        )

    def _seen(self, visual: Any) -> tuple[AbstractEncoding, nn.Module]:  # noqa: ANN401 (open_clip has no types)
        checkpoint = read_checkpoint(self.file, ema=self.ema)
        unpooled = not any(name.endswith(("q_proj.weight", "k_proj.weight")) for name in checkpoint.tensors)
        source = tower_of(visual)
        first = next(layer for layer in source.modules() if isinstance(layer, nn.Conv2d))
        replace_weight(first, torch.cat([first.weight.detach()] * 2, dim=1))
        spec = BcosifiedSpec(weights="raw", b=self.arguments.get("b", PUBLISHED_B), unpooled=unpooled)
        network = converted(source, spec)
        if not unpooled:
            # As it was trained: the code of the pool takes the weights of this layer, and nothing else of it.
            for pool in (module for module in network.modules() if isinstance(module, PooledTokens)):
                pool.c_proj.b = 1.0
        assign_weights(network, placed(checkpoint.tensors, network), self.file)
        settings = self._settings
        published = NormalizeAddInverse(settings["mean"], settings["std"])
        return published if self.encoding is None else parse_encoding(self.encoding), network


def tower_of(visual: Any) -> nn.Module:  # noqa: ANN401
    """The image tower, whose last product, of transformers, is a layer: what explains and converts sees layers."""
    projection = getattr(visual, "proj", None)
    if not isinstance(projection, nn.Parameter):
        whole: nn.Module = visual
        return whole
    width, features = projection.shape
    last = nn.Linear(width, features, bias=False)
    last.weight = nn.Parameter(projection.detach().T.contiguous(), requires_grad=False)
    visual.proj = None
    return nn.Sequential(visual, last)


def blank_tower(name: str) -> nn.Module:
    """The image tower of ``clip:NAME``, whose weights are yet to be loaded."""
    return tower_of(_towers(open_clip(), name, RANDOM).visual)


def text_tower(requested: str) -> Callable[[list[str]], Tensor]:
    """What gives a feature for each text, of ``clip:NAME`` and a tag.

    Raises:
        RequestError: open_clip is not installed, its weights are not to be had, or it would cut a text.
    """
    library, (name, tag) = open_clip(), ClipModel(requested)._checked()
    both, tokenizer = _towers(library, name, tag), library.get_tokenizer(name)

    def encode(texts: list[str]) -> Tensor:
        _check_lengths(tokenizer, texts)
        return _encoded(both, tokenizer, texts)

    return encode


def open_clip() -> ModuleType:
    """The library, imported on use: it takes seconds.

    Raises:
        RequestError: it is not installed.
    """
    check_installed(CLIP)
    import open_clip as library

    found: ModuleType = library
    return found


def _towers(library: ModuleType, name: str, tag: str) -> Any:  # noqa: ANN401 (open_clip has no types)
    try:
        with torch.random.fork_rng(devices=[]), weights_only(), _as_asked(tag):
            torch.manual_seed(SEED)
            both: Any = library.create_model(name, pretrained=None if tag == RANDOM else tag)
    except Exception as error:  # Whatever a hub, a connection or a file has to say.
        raise RequestError(
            f"the weights {tag} of clip:{name} cannot be had ({reason_of(error)}): fetch them where there is a "
            f"connection, or take random ones with clip:{name}@{RANDOM}"
        ) from error
    # open_clip's come in training mode.
    return freeze(both)


@contextmanager
def _as_asked(tag: str) -> Iterator[None]:
    """Weights that were asked to be random are no reason for open_clip to warn of them."""

    def other(record: logging.LogRecord) -> bool:
        return tag != RANDOM or not record.getMessage().startswith("No pretrained weights loaded")

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


def _encoded(both: Any, tokenizer: Any, texts: list[str]) -> Tensor:  # noqa: ANN401 (open_clip has no types)
    with torch.no_grad():
        return torch.cat(
            [both.encode_text(tokenizer(texts[start : start + BATCH])) for start in range(0, len(texts), BATCH)]
        )


def _check_lengths(tokenizer: Any, texts: Sequence[str]) -> None:  # noqa: ANN401
    """A tokenizer cuts a text that is too long without a word, and two texts become one."""
    if not hasattr(tokenizer, "encode"):
        return
    room = tokenizer.context_length - 2
    for text in texts:
        tokens = tokenizer.encode(text)
        if len(tokens) > room:
            kept = tokenizer.decode(tokens[:room])
            raise RequestError(
                f"text {text[:40]!r}... has {len(tokens)} tokens and the text tower takes {room}: it would be cut "
                f"after {kept[-40:]!r}; shorten it"
            )
