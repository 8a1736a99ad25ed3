"""A network traced into layers of which bounds are known, and the radii that follow from them."""

import operator
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from robustbench_bcos.attacks.norm import AbstractNorm
from robustbench_bcos.certificates.bound import SLACK, Bound
from robustbench_bcos.certificates.functions import FUNCTIONS
from robustbench_bcos.certificates.layers import RULES, NoRule, Transform, transform_of
from robustbench_bcos.core.types import Flags, Images, Labels, PerImage

HALVINGS = 24
"""Radii tried at most for an image, each half the one before; the first is the whole pixel range."""

REFINEMENTS = 6
"""Halvings of the last of those intervals; what is certified is a 64th part smaller at most than what could be."""

MOST_PARAMETERS = 2_000_000
"""Of a network that is looked into: bounds of larger ones take long, and prove nothing."""

BLOCK = 32
"""Images that are bounded together."""

TRACING = threading.Lock()
"""torch.fx patches ``Module.__call__`` while it traces. Of two that trace at a time, the one that ends last would
restore the other's patch, and leave it there."""


class CannotBound(Exception):
    """A network has a part of which no bound is known; the message is a sentence that names it."""


class Certifier:
    """Lower bounds of the smallest perturbation that changes what a network predicts.

    A radius is certified where, everywhere in the ball and the pixel range [0, 1], the label's logit is above all
    others, by more than the rounding of float32 can take away: the statement is of the network as it is computed, if
    its sums are rounded to nearest in any order (TF32 is allowed for where it is switched on; convolutions by Winograd
    or Fourier transforms are not).

    Args:
        classifier: from images in [0, 1] to logits, in evaluation mode.

    Raises:
        CannotBound: a part of it has no bound.
    """

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier
        count = sum(parameter.numel() for parameter in classifier.parameters())
        if count > MOST_PARAMETERS:
            raise CannotBound(
                f"the network has {count:,} parameters, more than {MOST_PARAMETERS:,}, so that nothing is certified"
            )
        tracer = _Tracer()
        try:
            with TRACING:
                graph = tracer.trace(classifier)
        except CannotBound:
            raise
        except Exception as error:  # A module's code may raise anything when it is given the tracer's proxies.
            raise CannotBound(
                f"{_named(tracer.inside, classifier)} cannot be traced ({_line(error)}), so that nothing is certified"
            ) from error
        self.transforms = {
            str(node.target): _transform(classifier, str(node.target))
            for node in graph.nodes
            if node.op == "call_module"
        }
        self.interpreter = _Interpreter(classifier, graph, self.transforms)

    def radii(self, images: Images, labels: Labels, norm: AbstractNorm) -> PerImage:
        """A radius for each image within which nothing changes its prediction; 0 where none could be proved.

        Args:
            images: in [0, 1].
            labels: what is predicted for them.
            norm: of perturbations.

        Returns:
            In float64; NaN where the network answers otherwise than it was traced.

        Raises:
            CannotBound: a part of the network has no bound for such images.
        """
        blocks = zip(images.split(BLOCK), labels.split(BLOCK), strict=True)
        return torch.cat([self._radii(block, of_block, norm) for block, of_block in blocks])

    @torch.no_grad()
    def _radii(self, images: Images, labels: Labels, norm: AbstractNorm) -> PerImage:
        radii = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        at = self.bound(images, radii, norm)
        answers = self.classifier(images).double()
        faithful = ((answers >= at.low) & (answers <= at.high)).all(dim=1)
        low, high = radii.clone(), torch.full_like(radii, 2 * norm.diameter(images.shape[1:]))
        for halving in range(HALVINGS + REFINEMENTS):
            open_ = (low == 0) if halving < HALVINGS else (low > 0)
            if not open_.any():
                continue
            tried = (low + high) / 2
            where = open_.nonzero().squeeze(1)
            held = torch.zeros_like(open_)
            held[where] = self.holds(images[where], labels[where], tried[where], norm)
            low = torch.where(held, tried, low)
            high = torch.where(open_ & ~held, tried, high)
        return low.masked_fill(~faithful, torch.nan)

    def holds(self, images: Images, labels: Labels, radii: PerImage, norm: AbstractNorm) -> Flags:
        """Whether each label's logit is provably the largest within these radii."""
        outputs = self.bound(images, radii, norm)
        margins = _margins(outputs, labels)
        return margins.scatter(1, labels[:, None], torch.inf).amin(dim=1) > 0

    def bound(self, images: Images, radii: PerImage, norm: AbstractNorm) -> Bound:
        """What is known of the logits within these radii."""
        images = images.double()
        # A norm of which nothing is said may change a pixel by anything, but not within a radius of 0.
        largest = (radii * norm.largest_change * SLACK).where(radii > 0, 0)
        reach = largest[:, None, None, None]
        bound = Bound(
            centre=images,
            low=(images - reach).clamp(min=0),
            high=(images + reach).clamp(max=1),
            euclidean=(radii * norm.longest(images.shape[1:]) * SLACK).where(radii > 0, 0),
            largest=largest,
            unit=_unit_roundoff(images.device),
        )
        outputs = self.interpreter.run(bound.sharpened())
        if not isinstance(outputs, Bound) or outputs.centre.dim() != 2:
            raise CannotBound("the network gives something else than one logit per class, so that nothing is certified")
        return outputs


def _margins(outputs: Bound, labels: Labels) -> Tensor:
    """At least so much is the label's logit above each other one, as the network computes both."""
    chosen = labels[:, None]
    centre = outputs.centre.gather(1, chosen) - outputs.centre
    margins = torch.maximum(
        outputs.low.gather(1, chosen) - outputs.high, centre - 2**0.5 * outputs.euclidean[:, None] * SLACK
    )
    if outputs.rows is None:
        return margins
    weight, features, rounding = outputs.rows.weight, outputs.rows.features, outputs.rows.rounding
    rows = weight[labels][:, None] - weight
    half = (features.high - features.low) / 2
    away = (features.low + features.high) / 2 - features.centre
    by_interval = centre + torch.einsum("icf,if->ic", rows, away) - torch.einsum("icf,if->ic", rows.abs(), half)
    by_length = centre - torch.linalg.vector_norm(rows, dim=2) * features.euclidean[:, None] * SLACK
    by_largest = centre - rows.abs().sum(dim=2) * features.largest[:, None] * SLACK
    real = torch.stack([by_interval, by_length, by_largest]).amax(dim=0)
    return torch.maximum(margins, real - rounding - rounding.gather(1, chosen))


def _unit_roundoff(device: torch.device) -> float:
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return 2.0**-10 if device.type == "cuda" and tf32 else 2.0**-24


class _Tracer(fx.Tracer):
    """Looks into every module of which no bound is known as a whole."""

    inside = ""
    """Path of the module that is being traced."""

    def __init__(self) -> None:
        super().__init__()
        # torch.fx patches Module.__call__ for the whole process while tracing; other threads must not notice.
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Modules with a bound, and torch's own."""
        return type(m) in RULES or super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:  # noqa: ANN401
        """What other threads look up is not traced, either."""
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401
        """Remember where tracing fails."""
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        outer, self.inside = self.inside, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        self.inside = outer
        return result


class _Interpreter(fx.Interpreter):
    """Runs a graph on bounds."""

    def __init__(self, classifier: nn.Module, graph: fx.Graph, transforms: Mapping[str, Transform]) -> None:
        super().__init__(classifier, graph=graph)
        self.classifier = classifier
        self.transforms = transforms
        self.node: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        """Name the module that a step without a bound belongs to."""
        self.node = n
        if _overwrites(n, self.classifier) and len(n.all_input_nodes[0].users) > 1:
            raise self._refusal(f"{n.name} overwrites what is used elsewhere", self._within())
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """A layer's transform."""
        bound, *others = args
        if others or kwargs or not isinstance(bound, Bound):
            raise self._refusal(f"{target} takes more than one input", target)
        return self._tried(lambda: self.transforms[target](bound), target)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """What a function makes of bounds, and of numbers what it always does."""
        if not any(isinstance(argument, Bound) for argument in _all(args, kwargs)):
            return super().call_function(target, args, kwargs)
        return self._applied(target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """As of a function of that name."""
        if not any(isinstance(argument, Bound) for argument in _all(args, kwargs)):
            return super().call_method(target, args, kwargs)
        return self._applied(target, args, kwargs)

    def _applied(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        if target not in FUNCTIONS:
            raise self._refusal(f"{getattr(target, '__name__', target)} has no bound", self._within())
        return self._tried(lambda: FUNCTIONS[target](*args, **kwargs), self._within())

    def _tried(self, compute: Callable[[], Any], path: str) -> Any:  # noqa: ANN401
        try:
            return compute()
        except NoRule as error:
            raise self._refusal(str(error), path) from None
        except (TypeError, RuntimeError, AttributeError, ValueError) as error:
            raise self._refusal(_line(error), path) from error

    def _refusal(self, why: str, path: str) -> CannotBound:
        return CannotBound(f"{_named(path, self.classifier)}: {why}, so that nothing is certified")

    def _within(self) -> str:
        """Path of the module whose code has this step."""
        stack = self.node.meta.get("nn_module_stack", {}) if self.node is not None else {}
        return next(reversed(stack), "")


def _overwrites(node: fx.Node, classifier: nn.Module) -> bool:
    """Whether a step changes its first input."""
    if node.op == "call_module":
        return bool(getattr(classifier.get_submodule(str(node.target)), "inplace", False))
    method = node.op == "call_method" and str(node.target).endswith("_")
    given = node.kwargs.get("inplace", False) or (node.target is F.relu and True in node.args[1:])
    return method or bool(given) or node.target in (operator.iadd, torch.relu_)


def _transform(classifier: nn.Module, path: str) -> Transform:
    try:
        return transform_of(classifier.get_submodule(path))
    except NoRule as error:
        raise CannotBound(f"{path}: {error}, so that nothing is certified") from None


def _named(path: str, classifier: nn.Module) -> str:
    return path or f"the network ({type(classifier).__name__})"


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _all(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Arguments, and those in lists."""
    found: list[Any] = []
    for argument in (*args, *kwargs.values()):
        found += argument if isinstance(argument, list | tuple) else [argument]
    return found
