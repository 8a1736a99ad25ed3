"""How a search begins and which of its iterates it returns, as configurations and attacks both name it. No torch."""

from typing import Literal

Start = Literal["image", "random"]
Select = Literal["first_success", "last", "best_loss"]
