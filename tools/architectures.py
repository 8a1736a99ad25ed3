"""Write which architectures come with the package, for those who ask before torch is imported.

``python -m tools.architectures``
"""

import json

from robustbench_bcos.core.disk import write_text
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES
from robustbench_bcos.model_zoo.registered import FILE


def content() -> str:
    """The arguments of each, a line each."""
    lines = [f"  {json.dumps(name)}: {json.dumps(ARCHITECTURES[name].arguments)}" for name in sorted(ARCHITECTURES)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    write_text(FILE, content())
