"""Encoders of texts, whose features images are compared with.

An encoder is one file in ``encoders``; installed packages add more through the entry points
``robustbench_bcos.text_encoders``. Features of a few texts come with the package, so that these need no encoder.
"""

from robustbench_bcos.core.registry import Registry
from robustbench_bcos.model_zoo.texts.encoder import AbstractTextEncoder

TEXT_ENCODERS: Registry[AbstractTextEncoder] = Registry(
    "encoder of texts",
    package="robustbench_bcos.model_zoo.texts.encoders",
    group="robustbench_bcos.text_encoders",
    instances=True,
)
