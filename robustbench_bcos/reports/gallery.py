"""What ``explain`` leaves in a folder: panels, a picture of each explanation, the arrays, a moving picture."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave
from PIL import Image

from robustbench_bcos.bench.gallery import ExplainedGallery
from robustbench_bcos.bench.pictures import Array, Picture
from robustbench_bcos.core.disk import made, slug, write_bytes
from robustbench_bcos.data.image_files import Frames
from robustbench_bcos.reports.figures import COLUMNS
from robustbench_bcos.reports.panels import attack_panel, models_panel, on_grey
from robustbench_bcos.reports.style import write_figure

LONGEST = 655_350
"""Milliseconds a frame of a GIF can be shown at most."""

FRAME_HEIGHT = 192
"""Pixels a frame is at least enlarged to, by whole factors."""


def write_gallery(
    explained: ExplainedGallery,
    names: Sequence[str],
    *,
    class_names: Sequence[str],
    folder: Path,
    title: str,
    formats: Sequence[str] = ("png",),
    heads: Sequence[str] = (),
) -> list[Path]:
    """Write panels of six images each, one RGBA picture per explanation, and ``maps.npz``.

    Args:
        explained: what to write.
        names: of the images, for their files.
        class_names: of the classes.
        folder: made if it is not there.
        title: above the panels.
        formats: of the files of each panel.
        heads: of the panels' columns; by default the images' numbers.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    written = write_maps(explained, made(folder))
    pictures = explained.pictures
    for start in range(0, len(pictures), COLUMNS):
        part = slice(start, start + COLUMNS)
        panel = attack_panel(pictures[part], class_names, title, heads[part])
        written += write_figure(panel, folder, f"panel_{start // COLUMNS + 1:02d}", formats)
    for place, (name, picture) in enumerate(zip(names, pictures, strict=True), start=1):
        stem = f"{place:03d}_{slug(name)}"
        written.append(_write_rgba(picture.clean.explanation, folder / f"{stem}_explanation.png"))
        if picture.attacked is not None:
            written.append(_write_rgba(picture.attacked.explanation, folder / f"{stem}_explanation_attacked.png"))
    return written


def write_side_by_side(
    rows: Mapping[str, Sequence[Picture]],
    class_names: Mapping[str, Sequence[str]],
    *,
    folder: Path,
    title: str,
    formats: Sequence[str],
    heads: Sequence[str],
) -> list[Path]:
    """Write panels of the same images as several models see them, six images each.

    Args:
        rows: pictures by model.
        class_names: of each model's classes.
        folder: made if it is not there.
        title: above the panels.
        formats: of the files of each panel.
        heads: of the columns.
    """
    written = []
    for start in range(0, len(heads), COLUMNS):
        part = slice(start, start + COLUMNS)
        shown = {model: pictures[part] for model, pictures in rows.items()}
        panel = models_panel(shown, class_names, title, heads[part])
        written += write_figure(panel, made(folder), f"models_{start // COLUMNS + 1:02d}", formats)
    return written


def write_maps(explained: ExplainedGallery, folder: Path) -> list[Path]:
    """Write ``maps.npz``: every array, without pickles."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **explained.arrays)
    return [write_bytes(folder / "maps.npz", content.getvalue())]


def write_moving(pictures: Sequence[Picture], frames: Frames, folder: Path) -> Path:
    """Write ``moving.gif``: each frame beside its explanation, shown as long as the frame was."""
    sheets = [Image.fromarray(_side_by_side(picture)) for picture in pictures]
    times = [min(time, LONGEST) for time in frames.milliseconds]
    content = io.BytesIO()
    sheets[0].save(content, "GIF", save_all=True, append_images=sheets[1:], duration=times, loop=0)
    return write_bytes(folder / "moving.gif", content.getvalue())


def _side_by_side(picture: Picture) -> npt.NDArray[np.uint8]:
    frame = np.moveaxis(picture.clean.pixels, 0, 2)
    gap = np.ones((frame.shape[0], max(1, frame.shape[1] // 16), 3), dtype=np.float32)
    sheet = np.concatenate([frame, gap, on_grey(picture.clean)], axis=1)
    factor = max(1, -(-FRAME_HEIGHT // frame.shape[0]))
    pixels: npt.NDArray[np.uint8] = (255 * sheet).round().astype(np.uint8).repeat(factor, axis=0).repeat(factor, axis=1)
    return pixels


def _write_rgba(picture: Array, file: Path) -> Path:
    content = io.BytesIO()
    imsave(content, picture, format="png")
    return write_bytes(file, content.getvalue())
