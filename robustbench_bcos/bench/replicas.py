"""Splits a batch over worker threads.

Sharing every tensor of a pass wakes all threads for each of its hundreds of operations, and with small images waking
takes longer than the work. In evaluation mode images do not depend on each other, so a batch can be split once.
"""

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.gradients import image_gradient
from robustbench_bcos.core.errors import RequestError

LEAST = 8
"""Images per thread below which a batch is left to torch, whose threads share single tensors."""


class ThreadedReplicas(nn.Module):
    """The same logits and first-order input gradients as ``network``, up to rounding; no double backward."""

    def __init__(self, network: nn.Module, count: int, *, compiled: bool = False) -> None:
        """Start the threads; each runs torch with one thread of its own.

        Args:
            network: in evaluation mode; a function of each image alone, with parameters that require no gradient.
            count: threads, at least 2.
            compiled: whether the network is compiled on its first call, which all threads would otherwise do at once.
        """
        super().__init__()
        self.network = network
        self.count = count
        self.compiled = compiled
        self._pool = ThreadPoolExecutor(count, "replica", initializer=torch.set_num_threads, initargs=(1,))
        self._begun: set[Any] = set()

    def forward(self, features: Tensor) -> Tensor:
        """Images, encoded or not, to logits."""
        if len(features) < LEAST * self.count:
            return cast(Tensor, self.network(features))
        if torch.is_grad_enabled() and features.requires_grad:
            return cast(Tensor, _SharedOut.apply(features, self))
        return torch.cat(self.each(self.network, self.shares(features)))

    def shares(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The parts of a batch, one for each thread."""
        return batch.tensor_split(self.count)

    def each(self, task: Any, *shares: Any) -> list[Any]:  # noqa: ANN401 (as map has it)
        """Run a task on each share at the same time; the first call of a compiled network runs one after the other."""
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
    def forward(ctx: Any, features: Tensor, replicas: ThreadedReplicas) -> Tensor:  # noqa: ANN401
        leaves = [share.detach().requires_grad_() for share in replicas.shares(features)]
        ctx.replicas, ctx.leaves, ctx.logits = (
            replicas,
            leaves,
            replicas.each(_ask, leaves, [replicas.network] * replicas.count),
        )
        return torch.cat([part.detach() for part in ctx.logits])

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise RequestError(
                "a network shared by threads has no gradients that can be differentiated again: ask the model itself"
            )
        replicas: ThreadedReplicas = ctx.replicas
        # The backward pass frees each replica's graph, as autograd does: a second backward pass is an error.
        return torch.cat(replicas.each(image_gradient, ctx.logits, ctx.leaves, replicas.shares(slopes))), None
