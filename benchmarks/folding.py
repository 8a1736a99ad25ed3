"""Gradients by the image: a folded B-cos ResNet-56 beside the official package's, and beside a plain ResNet-56.

    python benchmarks/folding.py [--batch 64] [--pairs 7] [--threads 2] [--no-compile]

Random 32x32 images; all B-cos networks have the same random weights, with running statistics under which signals do
not die on their way. Each network in turn takes one gradient, so that a busy machine slows all, and each ratio is the
median over these rounds. Compiling needs a C++ compiler, and a minute before the clock starts. Fails if folding
changed a gradient of a B-cos network, or a logit of the plain one, whose gradient jumps where a ReLU does, by more
than 1e-4 of the largest. ``run`` shares a batch out, a replica for each thread; others share out every tensor.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import bcos.models.resnet
import torch
import torch.nn.functional as F
from bcos.modules import norms
from pairs import Claim, Turns, make_parser, parse, publish
from torch import Tensor, nn

from robustbench_bcos import fold
from robustbench_bcos.bench.replicas import ThreadedReplicas
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.classifier import freeze

CLASSES = 10
TOLERANCE = 1e-4
OFFICIAL, FROZEN = "bcos, as it comes", "bcos, parameters frozen"
UNFOLDED, FOLDED, LAST, COMPILED = (
    "ours, unfolded",
    "ours, folded",
    "ours, folded, channels_last",
    "ours, folded, compiled",
)
SHARED, SHARED_COMPILED = "ours, as run has it", "ours, as run has it, compiled"
PLAIN, FUSED = "plain ResNet-56", "plain ResNet-56, folded"
FLOOR = "its convolutions alone, forward and back"

TARGETS: dict[tuple[str, str], float | None] = {
    (SHARED, OFFICIAL): 0.50,
    (SHARED, PLAIN): 1.2,
    (SHARED_COMPILED, OFFICIAL): 0.35,
    (SHARED_COMPILED, PLAIN): 0.85,
    (LAST, OFFICIAL): None,
    (COMPILED, OFFICIAL): None,
    (FOLDED, OFFICIAL): None,
    (UNFOLDED, OFFICIAL): None,
    (FROZEN, OFFICIAL): None,
    (PLAIN, OFFICIAL): None,
    (FUSED, PLAIN): None,
    (FLOOR, OFFICIAL): None,
    (FLOOR, PLAIN): None,
}
"""The most that ours may take of theirs; and what it takes to understand that."""


def calibrated(name: str, images: Tensor) -> nn.Module:
    """A network of random weights, with the running statistics of the images."""
    network = build_architecture(name, in_channels=images.shape[1], classes=CLASSES, arguments={})
    initialise(network, torch.Generator().manual_seed(0))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    return freeze(network)


def channels_last(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).to(memory_format=torch.channels_last)


def make_networks(encoded: Tensor, images: Tensor, *, compiled: bool, replicas: int) -> dict[str, nn.Module]:
    ours, plain = calibrated("bcos_resnet56", encoded), calibrated("resnet56", images)
    peer = bcos.models.resnet.cifar10_resnet56(
        num_classes=CLASSES, norm_layer=norms.NoBias(norms.BatchNormUncentered2d)
    )
    peer.load_state_dict(ours.state_dict())
    folded = fold(ours)
    networks = {OFFICIAL: peer.eval(), FROZEN: freeze(copy.deepcopy(peer)), UNFOLDED: ours, FOLDED: folded}
    networks[LAST] = channels_last(folded)
    networks[SHARED] = in_replicas(networks[LAST], replicas)
    if compiled:
        networks[COMPILED] = torch.compile(channels_last(folded))
        # A program of its own, made where torch has one thread.
        networks[SHARED_COMPILED] = in_replicas(torch.compile(channels_last(folded)), replicas, compiled=True)
    return networks | {PLAIN: plain, FUSED: fold(plain)}


def in_replicas(network: nn.Module, count: int, *, compiled: bool = False) -> nn.Module:
    return ThreadedReplicas(network, count, compiled=compiled) if count > 1 else network


def gradient(network: nn.Module, inputs: Tensor) -> Tensor:
    leaf = inputs.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(network(leaf).logsumexp(dim=1).sum(), leaf)
    return found


def check(networks: dict[str, nn.Module], inputs: dict[str, Tensor]) -> None:
    gradients = {name: gradient(networks[name], inputs[name]) for name in networks if name not in (PLAIN, FUSED)}
    for name, found in gradients.items():
        demand_close(name, found, gradients[OFFICIAL])
    demand_close(FUSED, networks[FUSED](inputs[FUSED]), networks[PLAIN](inputs[PLAIN]))


def demand_close(name: str, found: Tensor, expected: Tensor) -> None:
    difference = float((found - expected).abs().max() / expected.abs().max())
    if difference > TOLERANCE:
        raise SystemExit(f"{name}: differs by {difference:.2g} of the largest value")


def convolutions(network: nn.Module, inputs: Tensor, backward: int = 1) -> Callable[[], None]:
    """All convolutions of a network, each with the input it gets there, forward and so many times back to it."""
    calls: list[tuple[nn.Conv2d, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda layer, given: calls.append((layer, given[0].detach())))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network(inputs)
    for hook in hooks:
        hook.remove()
    # A folded network calls no such module, and nothing would be measured as fast as can be.
    if not calls:
        raise ValueError("a network without convolutions of its own")

    @torch.no_grad()
    def run() -> None:
        for layer, given in calls:
            made = F.conv2d(given, layer.weight, None, layer.stride, layer.padding)
            settings = (layer.stride, layer.padding, layer.dilation, False, (0, 0), 1, (True, False, False))
            for _ in range(backward):
                torch.ops.aten.convolution_backward(made, given, layer.weight, None, *settings)

    return run


def measure(turns: dict[str, Callable[[], object]], pairs: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(pairs):
        for name, turn in turns.items():
            began = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def compare(
    seconds: dict[str, list[float]], targets: Mapping[tuple[str, str], float | None], work: str
) -> Iterator[Claim]:
    for (name, peer), target in targets.items():
        if name in seconds:
            yield Claim.of(f"{name}, {work}", peer, Turns(seconds[name], seconds[peer]), target)


def asked(description: str | None, costly: str) -> tuple[argparse.Namespace, Tensor]:
    """The options of a script that compares networks on a batch of images, ``--no-COSTLY`` among them; the images."""
    parser = make_parser(description)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(f"--no-{costly}", dest=costly, action="store_false")
    options = parse(parser)
    options.pairs = options.pairs or 7
    if options.quick:
        options.batch, options.pairs = 2, 1
        setattr(options, costly, False)
    torch.set_num_threads(options.threads)
    return options, torch.rand((options.batch, 3, 32, 32), generator=torch.Generator().manual_seed(1))


def main() -> None:
    options, images = asked(__doc__, "compile")
    encoded = torch.cat([images, 1 - images], dim=1)
    networks = make_networks(encoded, images, compiled=options.compile, replicas=options.threads)
    inputs = {name: images if name in (PLAIN, FUSED) else encoded for name in networks}
    for name in (LAST, COMPILED, SHARED, SHARED_COMPILED):
        inputs[name] = encoded.contiguous(memory_format=torch.channels_last)
    check(networks, inputs)
    turns: dict[str, Callable[[], object]] = {
        name: partial(gradient, network, inputs[name]) for name, network in networks.items()
    }
    # The least that any B-cos network of these filters can take with these kernels.
    seconds = measure(turns | {FLOOR: convolutions(channels_last(networks[UNFOLDED]), inputs[LAST])}, options.pairs)
    publish("folding", list(compare(seconds, TARGETS, f"ResNet-56, batch {options.batch}")), options)


if __name__ == "__main__":
    main()
