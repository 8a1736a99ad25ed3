"""W(x) of any torch model, assembled from its operations instead of its explanation mode.

The operations of one forward pass are recorded, and replayed with every *gate* a constant, so that autograd gives rows
of W(x). A gate is what is no linear map of the image: cosines and norms, deviations, attention, argmaxima. Which values
are gates is found out and not declared: an operation is probed with random values in place of those that are linear in
the image, while gates keep the values they had. Operations that are linear in pieces (ReLU, MaxOut, max pooling) keep
the piece. A product of two values that are both linear in the image is a gate as well; where a logit turns out to be
one, the model is no linear map whichever of its values are held, or it is not clear which are meant to be.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, cast

import torch
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from robustbench_bcos.core.errors import named_reason_of
from robustbench_bcos.core.rng import generator

aten = torch.ops.aten

PIECEWISE: Final = frozenset(
    {
        aten.relu,
        aten.leaky_relu,
        aten.prelu,
        aten._prelu_kernel,
        aten.threshold,
        aten.hardtanh,
        aten.clamp,
        aten.clamp_min,
        aten.clamp_max,
        aten.max,
        aten.min,
        aten.amax,
        aten.amin,
        aten.maximum,
        aten.minimum,
        aten.max_pool2d,
        aten.max_pool2d_with_indices,
        aten.adaptive_max_pool2d,
        aten.topk,
        aten.sort,
        aten.median,
    }
)
"""Operations that choose among linear ones. The absolute value is not among them: B-cos layers hold it."""

FILLED: Final = frozenset(
    {
        *(aten.full_like, aten.zeros_like, aten.ones_like, aten.empty_like),
        *(aten.new_full, aten.new_zeros, aten.new_ones, aten.new_empty),
    }
)
"""Operations that take the shape of a value, and nothing else of it."""

MIXING: Final = frozenset({aten.convolution, aten.mm, aten.addmm, aten.bmm, aten.baddbmm})
"""Operations that combine positions with learned weights: what comes before them is still an encoded image."""

FUSED: Final = (
    aten.native_layer_norm,
    aten.native_group_norm,
    aten.native_batch_norm,
    aten._native_batch_norm_legit,
    aten._native_batch_norm_legit_no_training,
    aten._batch_norm_with_update,
    aten.gelu,
    aten.silu,
    aten.mish,
    aten.glu,
    aten.addcmul,
    aten.addcdiv,
)
"""Operations with a gate inside, which are taken apart."""


CLOSE: Final = 1e-4
"""Of the largest value, what rounding may take from an operation that is linear."""


class Role(Enum):
    """How a value depends on the image."""

    CONSTANT = "constant"
    LINEAR = "linear"
    GATE = "gate"


class NotLinearError(Exception):
    """The model is no linear map of what it takes; the message continues a sentence that says so."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """A model's logits as a linear map of the image, all gates held at this image."""

    logits: Tensor
    """Of the replay, (image, class), with the gradients of the linear map; of a layer, what it gives."""
    image: Tensor
    """The leaf."""
    inputs: tuple[Tensor, ...]
    """What contributions may be attributed to, (image, channel, height, width): the image, and each encoding of it that
    comes before learned weights."""

    def contributions(self, targets: Tensor) -> tuple[Tensor, ...]:
        """W(x)x of one class for each image, channel by channel, at each of ``inputs``."""
        chosen = self.logits.gather(1, targets[:, None]).sum()
        rows = torch.autograd.grad(chosen, self.inputs, retain_graph=True)
        return tuple((row * value).detach() for row, value in zip(rows, self.inputs, strict=True))


def assemble(model: Callable[[Tensor], Tensor], values: Tensor, *, hold: bool = True) -> LinearMap:
    """Record a forward pass, and replay it with all gates held.

    Args:
        model: any callable of torch operations, in evaluation mode.
        values: what it takes, images first; left as they are.
        hold: whether gates are constants; without, the map is that of the full gradient.

    Raises:
        NotLinearError: the pass cannot be recorded, or its outputs are no linear map of the image.
    """
    image = values.detach().clone()
    try:
        # Without mutations: what is overwritten would have been both linear and a gate.
        recorded = _record(torch.func.functionalize(model, remove="mutations"), image)
    except Exception as error:  # Whatever a model raises that is not made of torch operations.
        try:
            # A torch.autograd.Function of the older form cannot be made functional, and need not be.
            recorded = _record(model, image, refuse_mutations=True)
        except Exception:
            raise NotLinearError(f"its operations cannot be recorded ({named_reason_of(error)})") from error
    replay = _Replay(recorded, hold=hold)
    image = image.clone().requires_grad_()
    logits = replay.run(image)
    replay.check_outputs()
    return LinearMap(logits=logits, image=image, inputs=tuple(replay.inputs))


def _record(model: Callable[[Tensor], Tensor], image: Tensor, *, refuse_mutations: bool = False) -> fx.GraphModule:
    recorder = _Recorder(image, refuse_mutations=refuse_mutations)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), recorder:
        logits = model(image)
    return recorder.finish(logits)


class _Recorder(TorchDispatchMode):
    """Writes down each operation that is carried out, and where its arguments come from."""

    def __init__(self, image: Tensor, *, refuse_mutations: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._refuse_mutations = refuse_mutations
        self._graph = fx.Graph()
        self._constants = nn.Module()
        self._nodes = WeakTensorKeyDictionary()
        self._nodes[image] = self._graph.placeholder("image")
        self._apart = get_decompositions(FUSED)
        self._kept: list[object] = []

    def finish(self, logits: Tensor) -> fx.GraphModule:
        """The operations that led to the logits."""
        self._graph.output(self._node(logits))
        return fx.GraphModule(self._constants, self._graph)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Carry out an operation, or the parts of one that has a gate inside."""
        if func in self._apart:
            with self:
                return self._apart[func](*args, **kwargs or {})
        if self._refuse_mutations and func._schema.is_mutable:
            raise RuntimeError(f"{func} overwrites a value")
        result = func(*args, **kwargs or {})
        # Kept alive, because tensors are found by id(), which Python reuses.
        self._kept.append(result)
        node = self._graph.call_function(func, *tree_map(self._node, (args, kwargs or {})))
        if isinstance(result, Tensor):
            self._nodes[result] = node
        elif isinstance(result, tuple | list):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._nodes[part] = self._graph.call_function(operator.getitem, (node, index))
        return result

    def _node(self, value: Any) -> Any:  # noqa: ANN401
        """Where a tensor comes from; what comes from nowhere is a constant."""
        if not isinstance(value, Tensor):
            return value
        if value not in self._nodes:
            name = f"constant_{len(self._constants._buffers)}"
            self._constants.register_buffer(name, value.detach(), persistent=False)
            self._nodes[value] = self._graph.get_attr(name)
        return self._nodes[value]


class _Replay(fx.Interpreter):
    """Runs recorded operations on an image that needs a gradient; gates are cut from the graph."""

    def __init__(self, recorded: fx.GraphModule, *, hold: bool) -> None:
        super().__init__(recorded)
        self._hold = hold
        self.inputs: list[Tensor] = []
        self._encoding = True
        self._roles: dict[fx.Node, Any] = {}
        self._probed: dict[str, Any] = {}
        self._rng = generator("linear map")

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        """Run an operation, and find out what its outcome is to the image."""
        if _packet(n) is aten.detach:
            # What a model cuts from its graph does not matter: gates are found out here.
            self._roles[n] = self._roles[n.all_input_nodes[0]]
            return self.env[n.all_input_nodes[0]]
        with torch.enable_grad():
            value = super().run_node(n)
        if n.op == "output":
            return value
        self._roles[n] = role = self._role(n, value)
        if isinstance(value, Tensor):
            self._note_input(n, value, role)
            return self._held(value, role)
        if isinstance(value, tuple | list) and isinstance(role, tuple):
            return tuple(self._held(part, of_part) for part, of_part in zip(value, role, strict=True))
        return value

    def check_outputs(self) -> None:
        """Refuse outputs that are no linear map of the image."""
        output = next(node for node in self.graph.nodes if node.op == "output").all_input_nodes[0]
        if self._roles[output] is Role.CONSTANT:
            raise NotLinearError("its logits do not depend on the images in a way that torch can see")
        if self._roles[output] is Role.GATE:
            culprit = str(_packet(self._culprit(output))).removeprefix("aten.")
            raise NotLinearError(
                f"past {culprit} its logits are no linear map of the image, or it is open which of two factors is held"
            )

    def _culprit(self, node: fx.Node) -> fx.Node:
        """The operation that made a value nonlinear in the image."""
        while self._roles[node] is Role.GATE:
            before = [source for source in node.all_input_nodes if self._roles[source] is not Role.CONSTANT]
            if any(self._roles[source] is Role.LINEAR for source in before):
                return node
            node = before[0]
        return node

    def _role(self, node: fx.Node, value: object) -> Any:  # noqa: ANN401
        if node.op == "placeholder":
            return Role.LINEAR
        if node.op != "call_function":
            return Role.CONSTANT
        if node.target is operator.getitem:
            roles = self._roles[cast(fx.Node, node.args[0])]
            return roles[cast(int, node.args[1])] if isinstance(roles, tuple) else roles
        if _packet(node) in FILLED:
            return Role.CONSTANT
        given = {source: self._roles[source] for source in node.all_input_nodes}
        if Role.LINEAR not in given.values():
            return Role.GATE if Role.GATE in given.values() else Role.CONSTANT
        key = repr((node.target, fx.node.map_arg((node.args, node.kwargs), lambda source: given[source].value)))
        if key not in self._probed:
            self._probed[key] = self._probe(node, given, value)
        return self._probed[key]

    def _probe(self, node: fx.Node, given: dict[fx.Node, Role], value: object) -> Any:  # noqa: ANN401
        """The role of each output of an operation on values of which some are linear in the image."""
        gated = any(
            role is Role.GATE and cast(Tensor, self.env[source]).is_floating_point() for source, role in given.items()
        )
        if _packet(node) in PIECEWISE:
            role = Role.GATE if gated else Role.LINEAR
            return tuple(role for _ in value) if isinstance(value, tuple | list) else role
        linear = [source for source, role in given.items() if role is Role.LINEAR]
        one, other = ({source: self._draw(self.env[source]) for source in linear} for _ in range(2))
        zeros = {source: torch.zeros_like(self.env[source]) for source in linear}
        both = {source: one[source] + other[source] for source in linear}
        outcomes = [self._at(node, values) for values in (zeros, one, other, both)]
        if isinstance(value, Tensor):
            return _role_of(outcomes, gated)
        return tuple(_role_of(list(parts), gated) for parts in zip(*outcomes, strict=True))

    def _at(self, node: fx.Node, values: dict[fx.Node, Tensor]) -> Any:  # noqa: ANN401
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: values.get(source, self.env[source]))
        with torch.no_grad():
            return cast(Callable[..., Any], node.target)(*args, **kwargs)

    def _draw(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._rng, dtype=like.dtype).to(like.device)

    def _held(self, value: object, role: Role) -> object:
        return value.detach() if self._hold and isinstance(value, Tensor) and role is not Role.LINEAR else value

    def _note_input(self, node: fx.Node, value: Tensor, role: Role) -> None:
        self._encoding &= _packet(node) not in MIXING
        if not self._encoding or role is not Role.LINEAR or value.dim() != 4:
            return
        first = self.inputs[0] if self.inputs else value
        if (len(value), *value.shape[2:]) == (len(first), *first.shape[2:]):
            self.inputs.append(value)


def _role_of(outcomes: list[Tensor], gated: bool) -> Role:
    """Whether an outcome at zeros, at two values and at their sum is that of a linear map and a constant."""
    zero, one, other, both = outcomes
    if not zero.is_floating_point():
        return Role.GATE
    finite = torch.isfinite(torch.stack(outcomes)).all(dim=0)
    size = torch.stack([one, other, both])[:, finite].abs().max() if finite.any() else None
    if size is None or (both + zero - one - other)[finite].abs().max() > CLOSE * size:
        return Role.GATE
    # A gate that is added belongs to no pixel.
    return Role.GATE if gated and bool(zero[finite].any()) else Role.LINEAR


def _packet(node: fx.Node) -> object:
    return getattr(node.target, "overloadpacket", node.target)
