"""Maps of post-hoc methods beside captum called by hand, in batches.

    python benchmarks/post_hoc.py [--classes 1] [--quick]

A conventional ResNet-20 with random weights, random images of 32x32. By hand: the network's logits, then captum's
method for the class of the largest, or for each of so many classes one after the other. Seconds of the processor. Fails
if maps differ by more than 1e-4 of the largest contribution.
"""

import math
import time
from collections.abc import Callable

import torch
from captum import attr
from pairs import Claim, make_parser, parse, publish, take_turns
from torch import Tensor, nn

from robustbench_bcos import explain
from robustbench_bcos.explanations.methods.gradcam import last_feature_maps
from robustbench_bcos.explanations.methods.integrated_gradients import POINTS
from robustbench_bcos.explanations.methods.occlusion import WINDOW
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.classifier import freeze

SIDE = 32
ByHand = Callable[[Tensor, Tensor], Tensor]
"""From images and a class of each to maps."""


def by_hand(network: nn.Module, images: Tensor) -> dict[str, ByHand]:
    side = round(WINDOW * SIDE)
    layer = last_feature_maps(network, images)

    def gradcam(images: Tensor, target: Tensor) -> Tensor:
        coarse = attr.LayerGradCam(network, layer).attribute(images, target=target, relu_attributions=True)
        return attr.LayerAttribution.interpolate(coarse, (SIDE, SIDE), "bilinear")

    def occluded(images: Tensor, target: Tensor) -> Tensor:
        shape, step = (3, side, side), max(1, side // 2)
        together = max(1, math.ceil(64 / len(images)))
        maps = attr.Occlusion(network).attribute(
            images, target=target, sliding_window_shapes=shape, strides=(3, step, step), perturbations_per_eval=together
        )
        return maps[:, :1]  # The same in all channels.

    return {
        "gradient": lambda images, target: attr.Saliency(network).attribute(images, target=target, abs=False),
        "input_x_gradient": lambda images, target: attr.InputXGradient(network).attribute(images, target=target),
        "guided_backprop": lambda images, target: attr.GuidedBackprop(network).attribute(images, target=target),
        "gradcam": gradcam,
        "integrated_gradients": lambda images, target: attr.IntegratedGradients(network).attribute(
            images, target=target, n_steps=POINTS, internal_batch_size=64
        ),
        "occlusion": occluded,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1, help="explained of each image (1, the largest logit)")
    options = parse(parser)
    torch.set_num_threads(options.threads)
    source = torch.Generator().manual_seed(0)
    images = torch.rand((4 if options.quick else options.images, 3, SIDE, SIDE), generator=source)
    network = build_architecture("resnet20", in_channels=3, classes=10, arguments={})
    initialise(network, source)
    freeze(network)
    claims = []
    for method, attribute in by_hand(network, images).items():

        def ours(method: str = method) -> Tensor:
            targets = None if options.classes == 1 else [list(range(options.classes))] * len(images)
            return explain(network, images, targets, method).contributions

        def theirs(attribute: ByHand = attribute) -> Tensor:
            with torch.no_grad():
                chosen = network(images).argmax(dim=1)
            if options.classes == 1:
                return attribute(images.clone().requires_grad_(), chosen).sum(dim=1).detach()
            asked = [torch.full_like(chosen, number) for number in range(options.classes)]
            maps = [attribute(images.clone().requires_grad_(), target).sum(dim=1).detach() for target in asked]
            return torch.stack(maps, dim=1)

        expected = theirs()
        difference = float((ours() - expected).abs().max() / expected.abs().max())
        # Windows of captum's begin elsewhere at the last rows and columns.
        if difference > 1e-4 and method != "occlusion":
            raise SystemExit(f"{method}: maps differ by {difference:.2g} of the largest contribution")
        turns = take_turns(ours, theirs, 1 if options.quick else options.pairs, time.process_time)
        claim = f"{method}, {len(images)} images, {options.classes} of each's classes"
        claims.append(Claim.of(claim, "captum by hand", turns, 1.0)._replace(note=f"maps differ by {difference:.1g}"))
    publish("post_hoc", claims, options)


if __name__ == "__main__":
    main()
