"""Which outputs of a model stand for the classes of masks, where a model was trained on other classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.tables import read_json

if TYPE_CHECKING:
    from robustbench_bcos.localisation.setting import Setting

Outputs = Mapping[int, tuple[int, ...]]
"""For each class of masks, the outputs that stand for it; none where its objects are left out."""

FORM = '{"cat": 281, "dog": [151, 207], "person": null}'


def outputs_of(setting: "Setting", model: str) -> Outputs:
    """The outputs of a model for each class of the dataset: its own, or those of the file ``mask_classes``.

    Raises:
        RequestError: the file cannot be read, is of another form, leaves a class out, or names an output that the model
            does not have; or there is none, and the model has other classes.
    """
    names = setting.subset.class_names
    file = setting.config.mask_classes
    count = setting.outputs(model)
    if file is None:
        if count != len(names):
            raise RequestError(
                f"model {model!r} has {count} outputs, and the masks of {setting.subset.dataset.name} have "
                f"{len(names)} classes: say with mask_classes which output each of them is"
            )
        return {label: (label,) for label in range(len(names))}
    found: dict[int, tuple[int, ...]] = {}
    for name, value in read_mask_classes(file).items():
        if name not in names:
            raise RequestError(f"mask_classes {file}: {unknown('class of masks', name, names)}")
        outputs = () if value is None else tuple(value) if isinstance(value, list) else (value,)
        for output in outputs:
            if not isinstance(output, int) or isinstance(output, bool) or not 0 <= output < count:
                raise RequestError(
                    f"mask_classes {file}: {name!r} stands for {output!r}, which is no output of model {model!r}: give "
                    f"numbers from 0 to {count - 1}, or null to leave its objects out"
                )
        found[names.index(name)] = outputs
    missing = [name for label, name in enumerate(names) if label not in found]
    if missing:
        raise RequestError(
            f"mask_classes {file} does not say which output is {missing[0]!r}: give its number, or null to leave its "
            "objects out"
        )
    return found


def read_mask_classes(file: Path) -> Mapping[str, int | Sequence[int] | None]:
    """What a file says of each class of masks, as it is written.

    Raises:
        RequestError: it cannot be read, or is of another form.
    """
    try:
        found = read_json(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise RequestError(f"mask_classes {file} cannot be read ({reason}): write {FORM}") from None
    if not isinstance(found, dict):
        raise RequestError(f"mask_classes {file} must say which output each class of masks is: write {FORM}")
    return found
