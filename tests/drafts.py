"""Facts of small networks, from which tests make cards and recipes."""

from typing import Any

from robustbench_bcos.training.recipes import Recipe

NATURAL: dict[str, Any] = {
    "name": "tiny-natural",
    "family": "conventional",
    "architecture": "resnet8",
    "dataset": "digits",
    "classes": 10,
    "image_size": [8, 8],
    "encoding": {"kind": "none"},
    "loss": "ce",
}
AS_BCOS: dict[str, Any] = {
    "family": "bcos",
    "architecture": "bcos_resnet8",
    "encoding": {"kind": "add_inverse"},
    "loss": "bce",
}
BCOS = NATURAL | AS_BCOS | {"name": "tiny-bcos"}
TOWER = BCOS | {
    "name": "tower",
    "arguments": {"logit_bias": 0.0},
    "classes": 3,
    "loss": "ce",
    "texts": {"encoder": "all_minilm_l6_v2", "width": 384, "scale": 10.0, "classes": ["dog", "cat", "ship"]},
}
TRAINING: dict[str, Any] = {
    "name": "tiny",
    "dataset": "memory",
    "classes": 3,
    "image_size": (8, 4),
    "epochs": 2,
    "batch_size": 5,
    "optimiser": "adam",
    "learning_rate": 0.01,
}


def make_recipe(**changes: Any) -> Recipe:
    """A recipe of a conventional network, but for what is changed; of three classes, and of images of 8 by 4 pixels."""
    return Recipe.model_validate(NATURAL | TRAINING | changes)
