"""What a GPU does, in six minutes at most, and whether it agrees with the CPU.

    python benchmarks/on_device.py --out DIR        # on a machine with a GPU: DIR/speed-gpu.json, DIR/speed-gpu.md
    python benchmarks/on_device.py --tiny           # half a minute on a CPU: does it run? Quote nothing
    python benchmarks/on_device.py --list-wheels    # what a machine that has torch and torchvision lacks

Parts are carried out in order and written down one by one; one for which no time is left is named as skipped.
docs/speed-gpu.md says what each of them is.
"""

import argparse
import sys
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL", "tomli-w": "tomli_w"}
"""Names of packages that are imported under another."""


def missing_wheels() -> list[str]:
    """The requirements of the package that cannot be imported here, and pytest, as ``pip`` takes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tests = [one for one in project["optional-dependencies"]["dev"] if one.startswith("pytest>")]
    wanted = [*project["dependencies"], *tests]
    names = {one: one.partition(">")[0] for one in wanted}
    return [one for one, name in names.items() if find_spec(IMPORTED_AS.get(name, name.replace("-", "_"))) is None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cuda, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU can do")
    parser.add_argument("--seconds", type=float, default=360, help="after which no part begins (360)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for speed-gpu.json and speed-gpu.md")
    parser.add_argument("--list-wheels", action="store_true", help="print what has to be brought along, and stop")
    options = parser.parse_args()
    if options.list_wheels:
        print("\n".join(missing_wheels()))
        return
    began = time.perf_counter()
    # A bare machine has none of it, and has to be able to say so.
    sys.path.insert(0, str(ROOT))
    from device_parts import FULL, TINY, Card, carry_out

    device = options.device or ("cpu" if options.tiny else "cuda")
    card = Card(device, TINY if options.tiny else FULL)
    carry_out(card, options.out, until=began + options.seconds)


if __name__ == "__main__":
    main()
