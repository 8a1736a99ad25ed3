"""Chooses softplus' beta for attacks on maps of rectifier networks, on images that no table reports.

python docs/findings/choose_beta.py DATASET FIRST COUNT STEPS THREATS MODEL ...

Prints the mean of what is left of the way `away` (1 is the clean map, 0 its opposite), judged on the networks as they
are, for each beta and threat. DATASET as ``--dataset`` has it; images FIRST to FIRST + COUNT of the balanced order,
behind those that a run with ``--limit FIRST`` takes.
"""

import sys
from unittest.mock import patch

import torch

from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.fooling import Fooling
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.explanations import second_derivatives
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import find_models

BETAS = (3.0, 10.0, 15.0, 20.0, 30.0, 100.0)
METHOD = "input_x_gradient"


def main(dataset: str, first: int, count: int, steps: int, threats: list[Threat], names: list[str]) -> None:
    """Print a line for each model and threat."""
    subset = EvalSubset.of(open_dataset(dataset, "test"), first + count)
    images, labels, indices = subset.batch(first, first + count)
    for name in names:
        model = find_models(name, Zoo())[0].load()
        with torch.no_grad():
            right = (predicted_classes(model.classifier(images)) == labels).nonzero().flatten()
        chosen, classes = images[right], labels[right]
        rng = PerImageRng.of(0, [indices[place] for place in right.tolist()])
        fooling = Fooling(model=model, method=METHOD, softened=True, band=None, batch_size=64)
        for threat in threats:
            left = {}
            for beta in BETAS:
                with patch.object(second_derivatives, "SHARPNESS", beta):
                    target = fooling.target("away", threat, chosen, classes, chosen, rng)
                    left[beta] = float(fooling.fool(PGD(steps=steps), target, subject=name).left.mean())
            row = "  ".join(f"{beta:g}: {value:.4f}" for beta, value in left.items())
            sys.stdout.write(f"{name} {threat} ({len(right)} images)  {row}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    dataset, first, count, steps, threats, *names = sys.argv[1:]
    parsed = [Threat.of(*text.split(":")) for text in threats.split(",")]
    main(dataset, int(first), int(count), int(steps), parsed, names)
