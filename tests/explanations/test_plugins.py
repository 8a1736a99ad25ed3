"""Methods and measures of one's own: one file each, and everything finds them by name."""

import os
import subprocess
import sys
from pathlib import Path

PLUGIN = """
from robustbench_bcos.explanations import MEASURES, METHODS
from robustbench_bcos.explanations.explanation import Explanation
from robustbench_bcos.explanations.method import AbstractMethod, largest


class Brightness(AbstractMethod):
    def preference(self, network):
        return 3 if type(network).__name__ == "Favourite" else 0

    def _attribute(self, network, encoded, targets, rng):
        logits = network(encoded).detach()
        chosen = largest(logits) if targets is None else targets
        maps = encoded.detach().sum(dim=1)[:, None].repeat(1, chosen.shape[1], 1, 1)
        return Explanation(weights=None, contributions=maps, logits=logits, targets=chosen)


METHODS.registered("brightness")(Brightness)


@MEASURES.registered("largest_change")
def largest_change(first, second):
    return (first - second).abs().amax(dim=(1, 2)).double()
"""

SESSION = """
import sys
from pathlib import Path
import robustbench_bcos as rb
from robustbench_bcos.core.plugins import load_plugins
load_plugins([Path(sys.argv[1])])

import torch
class Favourite(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=3).flatten(1) * torch.linspace(1, 2, 12)

images = torch.rand((3, 3, 4, 5), generator=torch.Generator().manual_seed(0))
for method in ("brightness", "auto"):
    assert torch.equal(rb.explain(Favourite(), images, method=method).contributions, images.sum(dim=1)), method
assert not torch.equal(rb.explain(torch.nn.Flatten(), images).contributions, images.sum(dim=1))

labels = Favourite()(images).argmax(dim=1)
table = rb.evaluate(
    Favourite(), images, labels, norm="linf", eps="0.1", steps=2, explained=3, explanation="brightness", evidence="off"
)
assert table["explanation"].item() == "brightness"
found = table["explanation_largest_change_true_attack"].item()
assert 0 < found <= 3 * 0.1 + 1e-6, found
"""


def run(*arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_names_of_methods_are_known_without_torch() -> None:
    code = (
        "import sys; from robustbench_bcos.explanations import METHODS, method_names; "
        "print(*method_names()); print('dynamic_weights' in METHODS, 'torch' in sys.modules)"
    )
    names, known = run("-c", code).splitlines()
    assert names.split()[0] == "auto"
    assert {"dynamic_weights", "lime"} < set(names.split())
    assert known == "True False"


def test_a_plug_in_adds_a_method_and_a_measure(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN, encoding="utf-8")
    run("-c", SESSION, str(file))
