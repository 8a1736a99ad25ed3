"""Gradients by 224x224 images: folded B-cos ResNet-50 and Simple ViT-S beside the official package's, eager.

    python benchmarks/large.py [--batch 4] [--pairs 5] [--threads 1]

Random images; both sides have the same random weights, the ResNet with running statistics under which signals do not
die on their way. They take turns, so that a busy machine slows both, and each ratio is the median over these rounds.
Fails if a gradient in double precision differs: in single precision 50 layers of random weights amplify rounding.
"""

import copy
import warnings
from functools import partial

import bcos.models.resnet
import torch
from bcos.experiments.ImageNet.vit_final.experiment_parameters import CONFIGS
from bcos.experiments.ImageNet.vit_final.model import get_model
from bcos.modules import norms
from folding import calibrated, channels_last, demand_close, gradient, measure
from pairs import Claim, Turns, make_parser, parse, publish
from torch import Tensor, nn

from robustbench_bcos import fold

CLASSES, SIZE = 10, 224
OURS, OFFICIAL = "ours, folded", "bcos, as it comes"
TARGETS = {"bcos_resnet50": 0.45, "bcos_simple_vit_s": 0.65}
"""The most that ours may take of theirs."""


def resnet() -> nn.Module:
    """The official ResNet-50."""
    made: nn.Module = bcos.models.resnet.resnet50(
        num_classes=CLASSES, norm_layer=norms.NoBias(norms.BatchNormUncentered2d), logit_bias=0.0
    )
    return made


def transformer() -> nn.Module:
    """The official Simple ViT-S."""
    config = copy.deepcopy(CONFIGS["bcos_simple_vit_s_patch16_224"]["model"])
    config["args"]["num_classes"] = CLASSES
    config["logit_bias"] = None
    with warnings.catch_warnings():
        # It is warned of being built without the logit layer that get_model appends.
        warnings.simplefilter("ignore")
        made: nn.Module = get_model(config)
    return made


PEERS = {"bcos_resnet50": resnet, "bcos_simple_vit_s": transformer}


def compare(name: str, images: Tensor, pairs: int) -> Claim:
    ours = calibrated(name, images)
    theirs = PEERS[name]()
    theirs.load_state_dict(ours.state_dict())
    theirs.eval()
    part = images[:1, :, :64, :64].double()
    exact = fold(copy.deepcopy(ours).double()), copy.deepcopy(theirs).double()
    demand_close(name, *(gradient(one, part) for one in exact))
    folded, last = channels_last(fold(ours)), images.contiguous(memory_format=torch.channels_last)
    turns = {OURS: partial(gradient, folded, last), OFFICIAL: partial(gradient, theirs, images)}
    seconds = measure(turns, pairs)
    claim = f"gradient of {name}, {SIZE}x{SIZE}, batch {len(images)}"
    return Claim.of(claim, OFFICIAL, Turns(seconds[OURS], seconds[OFFICIAL]), TARGETS[name])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=int, default=4)
    options = parse(parser)
    torch.set_num_threads(options.threads)
    size = 64 if options.quick else SIZE
    images = torch.rand(
        (1 if options.quick else options.batch, 3, size, size), generator=torch.Generator().manual_seed(1)
    )
    encoded = torch.cat([images, 1 - images], dim=1)
    publish("large", [compare(name, encoded, 1 if options.quick else options.pairs or 5) for name in PEERS], options)


if __name__ == "__main__":
    main()
