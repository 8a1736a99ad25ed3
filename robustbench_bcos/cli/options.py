"""Options that several verbs have: where a model comes from, and where images lie."""

from pathlib import Path
from typing import Annotated

import typer

MODELS, DATA = "The models", "The images"

Weights = Annotated[Path | None, typer.Option(help="safetensors file or bare state dict.", rich_help_panel=MODELS)]
Architecture = Annotated[
    str | None, typer.Option(help="What --weights was made with: bcos_resnet56, ...", rich_help_panel=MODELS)
]
Encoding = Annotated[
    str | None, typer.Option(help="none or add_inverse, where --weights leaves it open.", rich_help_panel=MODELS)
]
Argument = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE that --weights leaves open: b=1.5, norm=batch. Repeat it.", rich_help_panel=MODELS),
]
Zoo = Annotated[list[Path] | None, typer.Option(help="Folder with further cards.", rich_help_panel=MODELS)]
DataDir = Annotated[Path | None, typer.Option(help="Where cifar10 lies.", rich_help_panel=DATA)]
