"""Gradients by 224x224 images: folded B-cos ResNet-50 and Simple ViT-S beside the official package's, eager.

    python benchmarks/large.py [--batch 4] [--pairs 5] [--threads 2] [--no-compile]

With one thread and with several, folded, and folded and compiled as `run --compile` does (which needs a C++ compiler,
and minutes before the clock starts). Random images; all have the same random weights, the ResNet with running
statistics under which signals do not die on their way. They take turns, so that a busy machine slows all, and each
ratio is the median over these rounds. Fails if a gradient in double precision differs: in single precision 50 layers of
random weights amplify rounding.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import bcos.models.resnet
import torch
from bcos.experiments.ImageNet.vit_final.experiment_parameters import CONFIGS
from bcos.experiments.ImageNet.vit_final.model import get_model
from bcos.modules import norms
from folding import calibrated, channels_last, demand_close, gradient, measure
from pairs import Claim, Turns, make_parser, parse, publish
from torch import Tensor, nn

from robustbench_bcos import fold
from robustbench_bcos.core.text import counted

CLASSES, SIZE = 10, 224
OURS, COMPILED, OFFICIAL = "folded", "folded and compiled", "bcos, as it comes"
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


def compare(name: str, images: Tensor, pairs: int, threads: Sequence[int], *, compiled: bool) -> Iterator[Claim]:
    ours = calibrated(name, images)
    theirs = PEERS[name]()
    theirs.load_state_dict(ours.state_dict())
    theirs.eval()
    part = images[:1, :, :64, :64].double()
    exact = fold(copy.deepcopy(ours).double()), copy.deepcopy(theirs).double()
    demand_close(name, *(gradient(one, part) for one in exact))
    folded, last = channels_last(fold(ours)), images.contiguous(memory_format=torch.channels_last)
    turns = {OURS: partial(gradient, folded, last), OFFICIAL: partial(gradient, theirs, images)}
    for count in threads:
        torch.set_num_threads(count)
        if compiled:
            # A program is made for so many threads.
            torch.compiler.reset()
            turns[COMPILED] = partial(gradient, torch.compile(folded), last)
            turns[COMPILED]()
        seconds = measure(turns, pairs)
        for kind in (OURS, COMPILED) if compiled else (OURS,):
            size = f"{images.shape[3]}x{images.shape[2]}, batch {len(images)}, {counted(count, 'thread')}"
            yield Claim.of(
                f"gradient of {name}, {kind}, {size}", OFFICIAL, Turns(seconds[kind], seconds[OFFICIAL]), TARGETS[name]
            )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parse(parser)
    threads = sorted({1, options.threads})
    size = 64 if options.quick else SIZE
    images = torch.rand(
        (1 if options.quick else options.batch, 3, size, size), generator=torch.Generator().manual_seed(1)
    )
    encoded = torch.cat([images, 1 - images], dim=1)
    pairs, compiled = (1, False) if options.quick else (options.pairs or 5, options.compile)
    compared = (compare(name, encoded, pairs, threads, compiled=compiled) for name in PEERS)
    publish("large", [*chain.from_iterable(compared)], options)


if __name__ == "__main__":
    main()
