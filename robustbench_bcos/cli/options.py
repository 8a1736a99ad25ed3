"""Options that several verbs have: where a model comes from, and where images lie."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_bcos.data.opening import datasets_in_a_folder

MODELS, DATA = "The models", "The images"

Weights = Annotated[
    Path | None, typer.Option(help="Checkpoint of any layout in docs/weights.md.", rich_help_panel=MODELS)
]
Architecture = Annotated[
    str | None,
    typer.Option(help="What --weights was made with: bcos_resnet56, torchvision:resnet50, ...", rich_help_panel=MODELS),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        help="What --weights, or else a --model without a card, takes: none, add_inverse, normalize:imagenet, "
        "normalize:0.5,0.5,0.5/0.5,0.5,0.5.",
        rich_help_panel=MODELS,
    ),
]
Argument = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE that --weights leaves open: b=1.5, norm=batch. Repeat it.", rich_help_panel=MODELS),
]
Ema = Annotated[
    bool, typer.Option("--ema", help="Take the moving average of --weights, where it has one.", rich_help_panel=MODELS)
]
Zoo = Annotated[list[Path] | None, typer.Option(help="Folder with further cards.", rich_help_panel=MODELS)]
DataDir = Annotated[Path | None, typer.Option(help=f"Folder of {datasets_in_a_folder()}.", rich_help_panel=DATA)]
Resize = Annotated[
    int | None,
    typer.Option(
        help="Pixels of the shorter side of image files, before --crop; by default as the models' cards say.",
        rich_help_panel=DATA,
    ),
]
Crop = Annotated[
    int | None, typer.Option(help="Pixels of a side of the square in the middle that is kept.", rich_help_panel=DATA)
]
Interpolation = Annotated[
    str | None, typer.Option(help="Of --resize: bilinear (the default) or bicubic.", rich_help_panel=DATA)
]
ImageList = Annotated[
    Path | None, typer.Option(help="Text file that names the images to use, one a line.", rich_help_panel=DATA)
]
