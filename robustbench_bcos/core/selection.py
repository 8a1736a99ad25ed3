"""How a search begins and which of its iterates counts, as configurations and attacks both name it. No torch."""

from typing import Literal

Start = Literal["image", "random"]
Count = Literal["any", "last", "best-loss"]
