#!/usr/bin/env bash
# Some of captum's perturbation methods round the maps of a float64 network to float32, and others do not.
#
# Version: captum 0.9.0 with torch 2.14.1.
# Guess: maps have the type of network and images, float64; Occlusion and ShapleyValueSampling are kinds of
#   FeatureAblation and do as that does.
# Behaviour: FeatureAblation, IntegratedGradients, Saliency and GradientShap give float64; Occlusion,
#   ShapleyValueSampling and KernelShap give float32. A comparison with a float64 reference ends at 1e-8, and the sum of
#   a map at the seventh digit of the logit.
# Output seen: types as above; Occlusion of a linear network, pixel by pixel, is 4e-9 off its closed form, which
#   FeatureAblation meets to 1e-15.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 captum==0.9.0 scikit-learn==1.9.1
cat > "$folder/precision.py" <<'PYTHON'
import warnings

import torch
from captum.attr import (
    FeatureAblation,
    GradientShap,
    IntegratedGradients,
    KernelShap,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)

warnings.simplefilter("ignore")
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).double()
image = torch.rand(1, 3, 4, 4, dtype=torch.float64)
asked = {
    FeatureAblation: {},
    IntegratedGradients: {},
    Saliency: {},
    GradientShap: {"baselines": torch.zeros_like(image)},
    Occlusion: {"sliding_window_shapes": (1, 1, 1)},
    ShapleyValueSampling: {"n_samples": 2},
    KernelShap: {"n_samples": 20},
}
maps = {method: method(network).attribute(image, target=1, **settings).detach() for method, settings in asked.items()}
exact = network[1].weight.detach()[1].view(3, 4, 4) * image
off = {method: float((maps[method].double() - exact).abs().max()) for method in (FeatureAblation, Occlusion)}
print({method.__name__: str(found.dtype) for method, found in maps.items()})
print({method.__name__: f"{error:.0e}" for method, error in off.items()})
rounded = {method.__name__ for method, found in maps.items() if found.dtype == torch.float32}
assert rounded == {"Occlusion", "ShapleyValueSampling", "KernelShap"}
assert off[FeatureAblation] < 1e-14
assert 1e-10 < off[Occlusion] < 1e-7
PYTHON
"$folder/env/bin/python" "$folder/precision.py"
