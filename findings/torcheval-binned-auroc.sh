#!/usr/bin/env bash
# torcheval's binned AUROC of several classes ranks the classes of each image, and says nothing of the images' order.
#
# Version: torcheval 0.0.7 with torch 2.13.0, numpy 2.4.6 and scikit-learn 1.9.1.
# Guess: one number per class, the chance that an image of the class has a higher score for it than another image;
#   with 1,000 thresholds within a hundredth of the exact one, as for two classes, and as multiclass_auroc gives it.
# Behaviour: counts run over the classes of an image instead of the images of a class, so there is one number per image:
#   which part of the wrong classes has a lower score than the right one. Without a mean they are as many as images;
#   with the default one it is a number between 0 and 1 that looks like an AUROC.
# Output seen: 300 images of 3 classes with scores that order the images of each class perfectly, one class' scores
#   being small: per class 1.00, 1.00, 1.00 by scikit-learn and by multiclass_auroc; the binned one has 300 numbers, mean
#   0.72. The other way round, perfect within images and chance between them: 0.84, 0.82, 0.83 exact, 1.00 binned.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torcheval==0.0.7 torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1
cat > "$folder/binned.py" <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
import torch  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402
from torcheval.metrics.functional import (  # noqa: E402
    binary_binned_auroc,
    multiclass_auroc,
    multiclass_binned_auroc,
)

IMAGES, CLASSES = 300, 3
torch.manual_seed(0)
torch.set_num_threads(1)
labels = torch.arange(IMAGES) % CLASSES
right = torch.nn.functional.one_hot(labels, CLASSES)


def compared(scores):
    exact = multiclass_auroc(scores, labels, num_classes=CLASSES, average=None)
    foreign = [roc_auc_score(labels == number, scores[:, number]) for number in range(CLASSES)]
    assert torch.allclose(exact.double(), torch.tensor(foreign).double(), atol=1e-6)
    each, _ = multiclass_binned_auroc(scores, labels, num_classes=CLASSES, threshold=1000, average=None)
    mean, _ = multiclass_binned_auroc(scores, labels, num_classes=CLASSES, threshold=1000)
    for number in range(CLASSES):
        binary, _ = binary_binned_auroc(scores[:, number], (labels == number).long(), threshold=1000)
        assert abs(float(binary) - foreign[number]) < 0.01
    print(f"per class {[round(v, 2) for v in foreign]}, binned: {len(each)} numbers, mean {float(mean):.2f}")
    assert len(each) == IMAGES
    return foreign, float(mean)


# Images of a class have higher scores for it than all others; those of the last class are small ones.
heights = torch.tensor([1.0, 1.0, 0.1])
foreign, mean = compared((0.5 * torch.rand(IMAGES, CLASSES) + 0.5 * right) * heights)
assert min(foreign) == 1 and mean < 0.9
# The right class has the highest score in its image, and images' scores are of very different sizes.
foreign, mean = compared((0.5 * torch.rand(IMAGES, CLASSES) + 0.5 * right) * torch.rand(IMAGES, 1))
assert max(foreign) < 0.95 and mean > 0.99
PYTHON
"$folder/env/bin/python" "$folder/binned.py"
