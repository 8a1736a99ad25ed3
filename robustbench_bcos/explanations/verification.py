"""Whether the maps of a model are W(x)x: that they sum to the logit does not show it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_bcos.core.adapted import (
    Adapted,
    copied,
    differentiable,
    in_evaluation_mode,
    like_parameters,
)
from robustbench_bcos.core.arrays import Array, read_images
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import generator
from robustbench_bcos.core.types import AnyModel, Images, Labels, PerImage
from robustbench_bcos.explanations.explanation import check_targets, encode, explain
from robustbench_bcos.explanations.linear_map import LinearMap, NotLinearError, assemble
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.classifier import ImageClassifier

Verdict = Literal["verified", "refuted", "undecided"]

Maps = Callable[[Tensor, Tensor], Array]
"""Images and a class for each, to maps."""

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4}
"""Difference that rounding makes, in shares of the largest contribution."""

DOUBTFUL = 10
"""Up to so many tolerances a difference may still be rounding, and decides nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Verification:
    """Whether maps are W(x)x, and how far they are from it."""

    verdict: Verdict
    """``verified`` only where W(x) was assembled and every map is W(x)x; ``undecided`` where one cannot tell."""
    reason: str
    """What the verdict rests on."""
    targets: Labels | None = None
    """The class that each map explains."""
    differences: PerImage | None = None
    """Largest difference from W(x)x in each image, in shares of the largest contribution."""
    correlations: PerImage | None = None
    """Of each map with W(x)x; NaN where one of them is constant."""
    constants: PerImage | None = None
    """What W(x)x leaves of each logit: constants that belong to no pixel, the logit bias among them."""
    layers: tuple[str, ...] = ()
    """Layers whose gradient in explanation mode is not that of their own linear map; of refuted maps alone."""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


def verify_explanation(
    model: AnyModel,
    images: Array,
    maps: Array | Maps | None = None,
    *,
    targets: Tensor | int | list[int] | None = None,
) -> Verification:
    """Find out whether a model's contribution maps are W(x)x, the image times the linear map that made the logit.

    A sum that equals the logit proves nothing: a B-cos network without biases is homogeneous of degree 1, so the full
    gradient times the image sums to the logit as well (Euler), and is another map. Here W(x) is assembled without any
    explanation mode: the operations of a forward pass are recorded, and replayed with each gate a constant
    (:mod:`~robustbench_bcos.explanations.linear_map`).

    Args:
        model: as of :func:`~robustbench_bcos.explanations.explanation.explain`, also of one's own layers.
        images: what it takes.
        maps: contributions to compare, (image, height, width), or (image, channel, height, width) for each channel of
            the image or of its encoding; or a function that makes them from images and targets. By default, those
            that ``explain`` makes, in double precision where the model can be copied.
        targets: the class to explain, one for all images or one for each; by default the largest logit.

    Raises:
        RequestError: images, targets or maps are not of these forms.
    """
    given = read_images(images, rgb=False)
    model = getattr(model, "_orig_mod", model)  # what torch.compile compiled
    with in_evaluation_mode(model):
        asked = differentiable(model) if isinstance(model, ImageClassifier) else Adapted(model)
        if maps is None and isinstance(model, nn.Module):
            asked = _exact(asked, given)
        return _verify(asked, given, maps, targets)


def _exact(asked: nn.Module, images: Images) -> nn.Module:
    """A copy in double precision, where rounding hides nothing; the model itself where it cannot be asked so."""
    try:
        exact = copied(asked).double()
        with torch.no_grad():
            exact(like_parameters(exact, images))
    except Exception:  # Whatever a module raises that cannot be copied, or computes in one precision alone.
        return asked
    return exact


def _verify(
    asked: nn.Module, images: Images, maps: Array | Maps | None, targets: Tensor | int | list[int] | None
) -> Verification:
    if not len(images):
        return _undecided("there are no images")
    given = like_parameters(asked, images)
    with torch.no_grad():
        logits: Tensor = asked(given)
        again: Tensor = asked(given)
    chosen = logits.argmax(dim=1) if targets is None else check_targets(asked, given, targets)
    if chosen.dim() != 1:
        raise RequestError("targets must be one class for all images or one for each: verify several one by one")
    if not torch.equal(logits, again):
        return _undecided("the model's answers to the same images differ")
    try:
        linear = assemble(asked, given)
    except NotLinearError as error:
        return _undecided(f"W(x) cannot be assembled: {error}")
    if not _agree(linear.logits, logits):
        return _undecided("the recorded operations do not give the model's logits")
    if maps is not None:
        compared = _read_maps(maps(images, chosen) if callable(maps) else maps, given)
        return _compare(asked, given, linear, compared, chosen)
    explanation = explain(asked, given, chosen)
    if not _agree(explanation.logits, logits):
        return Verification(verdict="refuted", reason="explanation mode changes the logits", targets=chosen)
    maps_of_weights = None if explanation.weights is None else explanation.weights * encode(asked, given)[0]
    made = explanation.contributions if maps_of_weights is None else maps_of_weights
    verification = _compare(asked, given, linear, made, chosen)
    if verification.verdict != "refuted":
        return verification
    layers = _layers_at_fault(asked, given)
    named = f"; the gradient of {', '.join(layers)} in explanation mode is not that of a linear map" if layers else ""
    return replace(verification, layers=layers, reason=verification.reason + named)


def _undecided(reason: str) -> Verification:
    return Verification(verdict="undecided", reason=reason)


def _agree(logits: Tensor, others: Tensor) -> bool:
    return bool((logits - others).abs().max() <= 1e-4 * others.abs().max())


def _read_maps(maps: Array, images: Images) -> Tensor:
    """Maps as handed over, in the precision and on the device of the images."""
    try:
        found = torch.as_tensor(maps).detach().to(images)
    except (TypeError, ValueError, RuntimeError):
        raise RequestError(f"maps must be numbers, got {type(maps).__name__}: give a tensor or an array") from None
    expected = (len(images), *images.shape[2:])
    if found.dim() not in (3, 4) or (len(found), *found.shape[-2:]) != expected:
        raise RequestError(
            f"maps must be of shape (image, height, width) or (image, channel, height, width), got "
            f"{tuple(found.shape)} for images of {tuple(images.shape)}: give one map for each image, of its size"
        )
    return found


def _compare(asked: nn.Module, images: Images, linear: LinearMap, maps: Tensor, targets: Labels) -> Verification:
    if not torch.isfinite(maps).all():
        return _undecided("the maps are not finite")
    assembled = [_like(maps, contributions) for contributions in linear.contributions(targets)]
    candidates = [contributions for contributions in assembled if contributions.shape == maps.shape]
    if not candidates:
        known = ", ".join(dict.fromkeys(str(value.shape[1]) for value in linear.inputs))
        raise RequestError(f"maps have {maps.shape[1]} channels and the image and its encodings have {known}: sum them")
    differences, best = min(
        ((_difference(maps, contributions), contributions) for contributions in candidates),
        key=lambda pair: pair[0].max().item(),
    )
    worst = differences.max().item()
    tolerance = _tolerance(maps)
    share = f"{worst:.2g} of its largest value"
    verdict: Verdict = "refuted"
    if not torch.isfinite(best).all():
        verdict, reason = "undecided", "W(x)x is not finite"
    elif worst <= tolerance:
        verdict, reason = "verified", f"the maps are W(x)x, up to {share}"
    elif worst <= tolerance * DOUBTFUL:
        verdict = "undecided"
        reason = f"the maps differ from W(x)x by {share}, which rounding may explain: hand over the model in float64"
    else:
        wrong = int((differences > tolerance * DOUBTFUL).sum())
        hint = _hint(asked, images, linear, maps, targets)
        reason = f"{wrong} of {len(maps)} maps differ from W(x)x, by up to {share}{hint}"
    explained = linear.logits.detach().gather(1, targets[:, None]).squeeze(1)
    return Verification(
        verdict=verdict,
        reason=reason,
        targets=targets,
        differences=differences,
        correlations=_correlations(maps, best),
        constants=explained - best.flatten(1).sum(dim=1),
    )


def _like(maps: Tensor, contributions: Tensor) -> Tensor:
    return contributions.sum(dim=1) if maps.dim() == 3 else contributions


def _difference(maps: Tensor, contributions: Tensor) -> PerImage:
    difference = (maps - contributions).flatten(1).abs().amax(dim=1)
    return difference / contributions.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(maps.dtype).tiny)


def _correlations(maps: Tensor, others: Tensor) -> PerImage:
    """Of each image, NaN where one of the two is constant."""
    pairs = zip(maps.flatten(1), others.flatten(1), strict=True)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])


def _hint(asked: nn.Module, images: Images, linear: LinearMap, maps: Tensor, targets: Labels) -> str:
    """What the maps are instead, where that is a common mistake."""
    if any(_equal(maps, full) for full in assemble(asked, images, hold=False).contributions(targets)):
        return (
            ": they are the gradient of the whole network times its input, with nothing held constant; compute the "
            "logits inside explanation mode, and not their gradient alone"
        )
    for contributions in linear.contributions(targets):
        one = _like(maps, contributions)
        if one.shape == maps.shape and one.any():
            factor = ((maps * one).sum() / one.square().sum()).item()
            if factor and _equal(maps, factor * contributions):
                return f": they are W(x)x times {factor:.4g}"
    return ""


def _equal(maps: Tensor, contributions: Tensor) -> bool:
    one = _like(maps, contributions)
    return one.shape == maps.shape and bool((_difference(maps, one) <= DOUBTFUL * _tolerance(maps)).all())


def _tolerance(maps: Tensor) -> float:
    return TOLERANCE.get(maps.dtype, max(TOLERANCE.values()))


def _layers_at_fault(asked: nn.Module, images: Images) -> tuple[str, ...]:
    """Names of the smallest modules whose gradient in explanation mode is not that of their linear map."""
    taken: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_note_input, taken, name))
        for name, module in asked.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            asked(images)
    finally:
        for hook in hooks:
            hook.remove()
    modules, found = dict(asked.named_modules()), list[str]()
    for name in sorted(taken, key=lambda each: -each.count(".")):
        if not any(inner.startswith(f"{name}.") for inner in found) and _differs(modules[name], taken[name]):
            found.append(name)
    return tuple(name for name in modules if name in found)


def _note_input(taken: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[object, ...]) -> None:
    if len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point():
        taken[name] = inputs[0].detach()


def _differs(module: nn.Module, values: Tensor) -> bool:
    """Whether a module's gradient in explanation mode is another than that of its linear map, in a random direction."""
    try:
        linear = assemble(module, values)
        with explanation_mode(module):
            leaf = values.clone().requires_grad_()
            answer: Tensor = module(leaf)
    except (NotLinearError, RuntimeError, TypeError, ValueError):
        return False
    direction = torch.randn(answer.shape, generator=generator("layers at fault")).to(answer)
    expected = torch.autograd.grad((linear.logits * direction).sum(), linear.image)[0]
    got = torch.autograd.grad((answer * direction).sum(), leaf)[0]
    return bool((got - expected).abs().max() > DOUBTFUL * _tolerance(values) * expected.abs().max())
