"""Where the command line prints: results to standard output, everything else to standard error."""

import sys

from rich.console import Console

PIPED_WIDTH = 200
"""Width of a table that goes to a file: nobody resizes a file, so nothing is folded in it."""

results = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
errors = Console(stderr=True)
