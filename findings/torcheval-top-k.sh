#!/usr/bin/env bash
# torcheval's top-k accuracy is 100 % for a network that answers NaN, and near it for one whose softmax has saturated.
#
# Version: torcheval 0.0.7 with torch 2.13.0 and numpy 2.4.6.
# Guess: k classes of each image are its top ones, also where scores are equal or NaN; a network that says the same of
#   all classes is right for k in ten images of ten classes, and one that answers NaN for no more.
# Behaviour: for k above 1, and in hit_rate and reciprocal_rank for any k, an image counts as right where fewer than k
#   scores are larger than the label's. None is larger than an equal one, nor than NaN. A network that has diverged is
#   perfect, and one whose probabilities underflow to 0 has all of its zeros among the top. Accuracy with k = 1 is right.
# Output seen: 1,000 images, 10 classes, top-1, top-2 and top-5 accuracy, hit rate with k = 1: NaN 0.10, 1.00, 1.00,
#   1.00; all scores 0 the same; logits of random size 200 that know nothing of the labels 0.09, 0.20, 0.51, 0.09; their
#   softmax 0.09, 0.56, 0.98, 0.09. By torch.topk 0.50 to 0.51 for k = 5.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torcheval==0.0.7 torch==2.13.0 numpy==2.4.6
cat > "$folder/top.py" <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
import torch  # noqa: E402
from torcheval.metrics.functional import hit_rate, multiclass_accuracy  # noqa: E402

IMAGES, CLASSES = 1000, 10
torch.manual_seed(0)
torch.set_num_threads(1)
labels = torch.arange(IMAGES) % CLASSES
logits = 200 * torch.randn(IMAGES, CLASSES)
answers = {
    "NaN": torch.full((IMAGES, CLASSES), torch.nan),
    "all scores 0": torch.zeros(IMAGES, CLASSES),
    "large logits": logits,
    "their softmax": logits.softmax(dim=1),
}
found = {}
for name, scores in answers.items():
    top = [float(multiclass_accuracy(scores, labels, k=k, num_classes=CLASSES)) for k in (1, 2, 5)]
    hits = float(hit_rate(scores, labels, k=1).mean())
    taken = float((scores.topk(5, dim=1).indices == labels[:, None]).any(dim=1).float().mean())
    found[name] = [*top, hits]
    print(f"{name}: {[round(value, 2) for value in found[name]]}, by torch.topk with k = 5 {taken:.2f}")
    assert taken < 0.55
for name in ("NaN", "all scores 0"):
    assert abs(found[name][0] - 0.1) < 1e-6 and found[name][1:] == [1, 1, 1]
assert found["large logits"][2] < 0.55 and found["their softmax"][2] > 0.9
PYTHON
"$folder/env/bin/python" "$folder/top.py"
