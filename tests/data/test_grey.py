"""Images of one channel: exact where images are grey, and as torchvision makes them grey where they are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.images import open_images
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.grey import WithChannels, with_channels
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset

RGB = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1])


def test_grey_images_keep_their_levels_exactly() -> None:
    grey = RGB[:, :1].expand(-1, 3, -1, -1).contiguous()
    assert torch.equal(with_channels(grey, 1), RGB[:, :1])
    one = WithChannels(InMemory(grey, LABELS, classes=2), 1)
    assert torch.equal(one.read(2), RGB[2, :1])
    assert one.notes == ()
    assert EvalSubset.of(one).image_shape == (1, 5, 6)


def test_colours_are_weighed_and_said() -> None:
    one = WithChannels(InMemory(RGB, LABELS, classes=2), 1)
    subset = EvalSubset.of(one, 3)
    weighed = (RGB * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)
    torch.testing.assert_close(subset.batch(0, 3).images, weighed[list(subset.indices)])
    assert "Images made grey: 3." in subset.notes


def test_grey_images_are_repeated_for_models_that_take_three_channels() -> None:
    three = WithChannels(InMemory(RGB[:, :1].contiguous(), LABELS, classes=2), 3)
    assert torch.equal(three.read(1), RGB[1, :1].expand(3, -1, -1))
    assert EvalSubset.of(three).digest == EvalSubset.of(InMemory(RGB[:, [0, 0, 0]], LABELS, classes=2)).digest


def test_a_folder_of_grey_files_has_as_many_channels_as_are_asked_for(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 6), dtype=np.uint8)
    (tmp_path / "0").mkdir()
    Image.fromarray(levels).save(tmp_path / "0/0.png")
    opened = open_images(make_config({"dataset": f"folder:{tmp_path}", "channels": 1}), [])
    np.testing.assert_array_equal(opened.read(0).numpy(), levels[None].astype(np.float32) / 255)
    assert open_images(make_config({"dataset": f"folder:{tmp_path}"}), []).read(0).shape == (3, 5, 6)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_images_are_grey_or_rgb(channels: int) -> None:
    with pytest.raises(RequestError, match=f"^channels {channels} must be 1 or 3"):
        make_config({"channels": channels})
