"""Do explanations point at the right place: pictures whose evidence has a known place, and how maps score on them.

A game deals the pictures; of the grid pointing game, a protocol says how a map becomes a score. Both are registries
that a plug-in file or an installed package can add to; their names are known without torch.
"""

from typing import TYPE_CHECKING

from robustbench_bcos.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_bcos.localisation.game import AbstractGame
    from robustbench_bcos.localisation.protocol import AbstractProtocol

GAMES: "Registry[type[AbstractGame]]" = Registry(
    "game", package="robustbench_bcos.localisation.games", group="robustbench_bcos.localisation_games"
)
PROTOCOLS: "Registry[AbstractProtocol]" = Registry(
    "protocol",
    package="robustbench_bcos.localisation.protocols",
    group="robustbench_bcos.localisation_protocols",
    instances=True,
)
