"""The images of a request, in the size that its models take."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.class_order import ClassOrder, read_class_order
from robustbench_bcos.data.dataset import AbstractDataset
from robustbench_bcos.data.grey import WithChannels
from robustbench_bcos.data.opening import any_size, open_dataset, takes_class_order
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing
from robustbench_bcos.data.remembered import Remembered
from robustbench_bcos.model_zoo.models import ModelSource


def open_images(config: RunConfig, sources: Sequence[ModelSource]) -> AbstractDataset:
    """The test images, resized and cropped where they come in all sizes.

    Raises:
        RequestError: the dataset is not to be had, or not in one size for all models.
    """
    dataset = open_dataset(
        config.dataset,
        "test",
        data_dir=config.data_dir,
        download=config.download,
        # For datasets of one size, a card's framing describes the images and is not applied.
        preprocessing=preprocessing_for(config, sources if any_size(config.dataset) else ()),
        image_list=config.image_list,
        class_order=class_order_for(config, sources),
    )
    channels = config.channels or dataset.channels
    return Remembered(dataset if channels == dataset.channels else WithChannels(dataset, channels))


def class_order_for(config: RunConfig, sources: Sequence[ModelSource]) -> ClassOrder | None:
    """Which class is which output: what the option says, and where it says nothing, what the models' cards say.

    Raises:
        RequestError: the file cannot be read, or the cards of two models differ.
    """
    if config.classes is not None:
        return read_class_order(config.classes)
    if not takes_class_order(config.dataset):
        return None
    orders = [
        ClassOrder.of(f"the card of model {source.name!r}", [[name] for name in source.class_names])
        for source in sources
        if source.class_names is not None
    ]
    for order, other in pairwise(orders):
        if order.names != other.names:
            raise RequestError(
                f"{order.origin} and {other.origin} have classes in different orders: run the models apart, or give "
                "classes for both"
            )
    return next(iter(orders), None)


def preprocessing_for(config: RunConfig, sources: Sequence[ModelSource]) -> Preprocessing:
    """What the options say, and where they say nothing, what is known of the models.

    A crop that is asked for without a size to resize to is cut from the image as it is.

    Raises:
        RequestError: two models differ in what the options leave open, or there is nothing to interpolate.
    """
    stated = {source.name: framing for source in sources if (framing := source.framing) is not None}
    found = {name: _overridden(Preprocessing(**vars(framing)), config) for name, framing in stated.items()}
    for (name, wanted), (other, differently) in pairwise(found.items()):
        if wanted != differently:
            raise RequestError(
                f"model {name!r} was made for images with {wanted}, and {other!r} for images with {differently}: "
                "choose for both with --resize, --crop and --interpolation, or run them apart"
            )
    chosen = next(iter(found.values()), _overridden(AS_THEY_ARE, config))
    if config.interpolation is not None and chosen.resize is None:
        raise RequestError(
            f"--interpolation {config.interpolation} says how images are resized, and nothing says to what: "
            "give --resize too, or leave it out"
        )
    return chosen


def _overridden(preprocessing: Preprocessing, config: RunConfig) -> Preprocessing:
    if config.crop is not None:
        preprocessing = replace(preprocessing, resize=config.resize, crop=(config.crop, config.crop))
    elif config.resize is not None:
        preprocessing = replace(preprocessing, resize=config.resize)
    if preprocessing.resize is None:
        # Where nothing is resized, models do not differ in how.
        return replace(preprocessing, interpolation=AS_THEY_ARE.interpolation)
    return replace(preprocessing, interpolation=config.interpolation or preprocessing.interpolation)
