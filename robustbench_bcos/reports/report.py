"""Everything a run leaves beside its store: CSV files, figures, the page."""

from collections.abc import Sequence
from pathlib import Path

from robustbench_bcos.reports.exports import export
from robustbench_bcos.reports.run_folder import RunFolder


def write_report(
    run: RunFolder,
    *,
    figures: bool,
    images: Sequence[int] = (),
    formats: Sequence[str] = ("png",),
    folder: Path | None = None,
) -> list[Path]:
    """Write the files of a run, from its store alone; each is replaced as a whole.

    Args:
        run: what was measured.
        figures: whether to draw, and to write the page.
        images: dataset indices for the panels.
        formats: of the files of each figure.
        folder: where they go; by default the run's.

    Raises:
        RequestError: images are asked for that the run has no pictures of, or the disk is full.
    """
    run.check_pictured(images)
    written = export(run, folder)
    if not figures:
        return written
    # Matplotlib and Jinja are imported where something is drawn.
    from robustbench_bcos.reports.figures import write_figures
    from robustbench_bcos.reports.page import write_page

    drawn = write_figures(run, images, formats, folder)
    return [*written, *(file for figure in drawn for file in figure.files), write_page(run, drawn, folder)]
