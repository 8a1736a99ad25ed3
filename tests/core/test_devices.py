"""Devices are tried before they are used."""

import pytest
import torch

from robustbench_bcos.core.devices import choose_device
from robustbench_bcos.core.errors import RequestError


def test_the_device_is_chosen_and_tried() -> None:
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cpu cpu", "", "cuda:x", "cuda:", "cuda:1:2"])
def test_what_is_no_device_is_refused_with_those_that_people_have(device: str) -> None:
    with pytest.raises(RequestError, match=rf"^unknown device '{device}': .*auto, cpu, cuda, cuda:1"):
        choose_device(device)


@pytest.mark.parametrize("device", ["cuda:99", "meta", "xla", "hpu"])
def test_a_device_that_is_not_to_be_had_is_named_in_a_sentence(device: str) -> None:
    with pytest.raises(
        RequestError, match=rf"^device {device} is not available here \(.*\): use cpu, or leave"
    ) as caught:
        choose_device(device)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
