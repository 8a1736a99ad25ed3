"""Where training begins: at random weights, or at those of a trained model, B-cosified if the recipe says so."""

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import generator
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.architectures import initialise
from robustbench_bcos.model_zoo.bcosify.bcosify import bcosify
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.classifier import ImageClassifier, build_classifier, network_of
from robustbench_bcos.model_zoo.models import find_models
from robustbench_bcos.model_zoo.prompts import Prompts
from robustbench_bcos.model_zoo.texts import TEXT_ENCODERS
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork, prototypes_for
from robustbench_bcos.training.recipes import Recipe

PROVED = 32
"""Images on which a conversion is proved, at most."""


def begin(recipe: Recipe, images: EvalSubset) -> ImageClassifier:
    """The classifier of a recipe before the first step.

    Raises:
        RequestError: the model it starts from is not to be had, or is not of the recipe's architecture.
    """
    classifier = build_classifier(recipe)
    if recipe.texts is not None:
        assert isinstance(classifier.network, ZeroShotNetwork)
        prompts = Prompts(recipe.texts.classes, recipe.texts.templates)
        classifier.network.compare_with(prototypes_for(prompts, TEXT_ENCODERS[recipe.texts.encoder].features))
    if recipe.start is None:
        initialise(classifier, generator(recipe.seed))
        return classifier
    sources = find_models(recipe.start, Zoo())
    if len(sources) > 1:
        raise RequestError(
            f"recipe {recipe.name!r} starts from {recipe.start}, which names {len(sources)} models: name one"
        )
    source = sources[0].load().classifier
    if recipe.bcosified is not None:
        said = recipe.bcosified
        source = bcosify(
            source,
            images=images.batch(0, min(PROVED, len(images))).images,
            b=said.b,
            learn_b=said.learn_b,
            biases=said.biases,
            max_pools=said.max_pools,
            unpooled=said.unpooled,
            logit_bias=said.logit_bias,
            name=said.source,
        )
        found = source.conversion.spec
        if found != said:
            differing = [key for key in type(said).model_fields if getattr(found, key) != getattr(said, key)]
            values = ", ".join(f"{key} = {getattr(found, key)!r}" for key in differing)
            raise RequestError(f"recipe {recipe.name!r}: its table bcosified must say {values} for {recipe.start}")
    assign_weights(classifier.network, network_of(source).state_dict(), recipe.start)
    return classifier
