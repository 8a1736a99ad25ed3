"""A network asked by several threads at once, each about images of its own.

Sharing out every tensor of a pass wakes all threads for each of its hundreds of operations, and with small images
waking takes longer than the work does. In evaluation images owe each other nothing: a batch can be shared out once.
"""

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.gradients import image_gradient
from robustbench_bcos.core.errors import RequestError

LEAST = 8
"""Images worth a thread: fewer are left to torch, which shares out their tensors."""


class ThreadedReplicas(nn.Module):
    """A network with the same logits and input gradients up to rounding, to be taken once; one batch, many threads."""

    def __init__(self, network: nn.Module, count: int, *, compiled: bool = False) -> None:
        """A lane is a thread, and torch has one thread in it.

        Args:
            network: in evaluation mode; a function of each image alone, with parameters that require no gradient.
            count: lanes, at least 2.
            compiled: whether the network is compiled when it is first asked, which every lane would do at once.
        """
        super().__init__()
        self.network = network
        self.count = count
        self.compiled = compiled
        self._pool = ThreadPoolExecutor(count, "lane", initializer=torch.set_num_threads, initargs=(1,))
        self._begun: set[Any] = set()

    def forward(self, features: Tensor) -> Tensor:
        """Images, encoded or not, to logits."""
        if len(features) < LEAST * self.count:
            return cast(Tensor, self.network(features))
        if torch.is_grad_enabled() and features.requires_grad:
            return cast(Tensor, _SharedOut.apply(features, self))
        return torch.cat(self.each(self.network, self.shares(features)))

    def shares(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The parts of a batch, one for each lane."""
        return batch.tensor_split(self.count)

    def each(self, task: Any, *shares: Any) -> list[Any]:  # noqa: ANN401 (as map has it)
        """What a task says of each share, all at the same time; one after the other what is compiled on the way."""
        alone, waiting = self.compiled and task not in self._begun, []
        for share in zip(*shares, strict=True):
            # Explanation mode is a matter of context, which threads do not inherit; and no two may be in the same one.
            waiting.append(self._pool.submit(copy_context().run, task, *share))
            if alone:
                waiting[-1].result()
        self._begun.add(task)
        return [each.result() for each in waiting]


def _ask(leaf: Tensor, network: nn.Module) -> Tensor:
    """Logits with a way back to the leaf."""
    with torch.enable_grad():
        return cast(Tensor, network(leaf))


class _SharedOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, lanes: ThreadedReplicas) -> Tensor:  # noqa: ANN401
        leaves = [share.detach().requires_grad_() for share in lanes.shares(features)]
        ctx.lanes, ctx.leaves, ctx.logits = lanes, leaves, lanes.each(_ask, leaves, [lanes.network] * lanes.count)
        return torch.cat([part.detach() for part in ctx.logits])

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise RequestError(
                "a model with lanes was asked for gradients that can be differentiated again, which it does not have: "
                "ask the model it was made of"
            )
        lanes: ThreadedReplicas = ctx.lanes
        # Each lane lets go of its features on the way back, as autograd does: a second way back is an error.
        return torch.cat(lanes.each(image_gradient, ctx.logits, ctx.leaves, lanes.shares(slopes))), None
