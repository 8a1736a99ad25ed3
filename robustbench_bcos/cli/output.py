"""Where the command line prints: results to standard output, everything else to standard error."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

from robustbench_bcos.core.text import printable

if TYPE_CHECKING:
    from robustbench_bcos.reports.run_folder import RunFolder

PIPED_WIDTH = 200
"""Width of a table that goes to a file: nobody resizes a file, so nothing is folded in it."""


class _Inert(RenderHook):
    """What is printed may come from files; a terminal must not act upon it."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Each as it was, with control characters in its text escaped."""
        return [_Escaped(renderable) for renderable in renderables]


class _Escaped:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


results = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
errors = Console(stderr=True)
for console in (results, errors):
    console.push_render_hook(_Inert())


def print_report(run: "RunFolder", files: list[Path], folder: Path | None = None) -> None:
    """The table, how to read it, and where everything is."""
    from robustbench_bcos.reports.console import accuracy_table, reading_notes, smoothed_table

    results.print(accuracy_table(run))
    for note in reading_notes(run):
        # Names and remedies may have square brackets.
        results.print(note, markup=False)
    if len(run.smoothed):
        results.print(smoothed_table(run.smoothed))
    folder = folder or run.folder
    names = [str(file.relative_to(folder)) for file in files if file.parent == folder]
    figures = [file for file in files if file.parent != folder]
    formats = " and ".join(dict.fromkeys(file.suffix[1:].upper() for file in figures))
    drawn = [f"figures ({len({file.stem for file in figures})}, as {formats})"] if figures else []
    results.print(f"Written to {folder}: {', '.join([*names, *drawn])}", soft_wrap=True, markup=False)
