"""Adversarial images that leave the tool: what is in the files is what was judged, and is read back as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from robustbench_bcos.bench import request as requests
from robustbench_bcos.bench import saving
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evaluation import evaluate
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.request import Request, check_request
from robustbench_bcos.bench.runner import _attack
from robustbench_bcos.bench.saving import ARRAYS, PICTURES, adversarials_of, save_adversarials
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.manifest import Manifest
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.models import LoadedModel, own_model
from tests.bench.own_request import own_request
from tests.bench.stages.test_attack import Band
from tests.bench.tiny_zoo import carry_out, model_of, tiny_request

ORDERS = {"l2": 2, "linf": np.inf}
OPTIONS: dict[str, Any] = {"norm": ("l2", "linf"), "eps": ("0.2", "0.4"), "steps": (3,), "limit": 12}


@pytest.fixture(scope="module")
def request_(tiny_zoo: Path) -> Request:
    """Two models, two norms, and images that a smaller epsilon has broken."""
    return tiny_request(tiny_zoo, **OPTIONS, save_adversarials=True, batch_size=3)


@pytest.fixture(scope="module")
def saved(request_: Request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, list[Path]]:
    folder = tmp_path_factory.mktemp("saved")
    store = Store()
    carry_out(request_, store)
    return store, folder, save_adversarials(request_, store, folder)


def test_arrays_are_what_was_judged_for_every_image(request_: Request, saved: tuple[Store, Path, list[Path]]) -> None:
    store, _, homes = saved
    assert len(set(homes)) == len(request_.cells) == 8
    inherited = successes = 0
    for cell, home in zip(request_.cells, homes, strict=True):
        with np.load(home / ARRAYS, allow_pickle=False) as archive:
            found = dict(archive)
        assert found["indices"].tolist() == list(request_.subset.indices)
        images, labels, _ = request_.subset.batch(0, 12)
        assert np.array_equal(found["images"], images.numpy())
        assert found["labels"].tolist() == labels.tolist()
        classifier = model_of(request_, cell.model).classifier
        for name, pixels in (("predictions_before", "images"), ("predictions_after", "adversarials")):
            assert found[name].tolist() == classifier(torch.from_numpy(found[pixels])).argmax(dim=1).tolist()
        changes = (found["adversarials"].astype(np.float64) - found["images"]).reshape(12, -1)
        sizes = np.array([np.linalg.norm(change, ord=ORDERS[cell.threat.norm]) for change in changes])
        assert found["distances"] == pytest.approx(sizes, rel=1e-12)
        assert (sizes <= cell.threat.radius * (1 + 1e-5)).all()
        verdicts = {row.image: row for row in store.verdicts(cell)}
        assert found["success"].tolist() == [verdicts[index].success for index in request_.subset.indices]
        right = found["predictions_before"] == found["labels"]
        assert np.array_equal(found["success"], right & (found["predictions_after"] != found["labels"]))
        assert (sizes[~right] == 0).all()
        assert found["class_names"].tolist() == list("0123456789")
        inherited += sum(row.inherited for row in verdicts.values())
        successes += int(found["success"].sum())
    assert inherited > 4
    assert successes > inherited


def test_pictures_are_read_back_with_the_same_verdicts(
    request_: Request, saved: tuple[Store, Path, list[Path]], tiny_zoo: Path
) -> None:
    store, _, homes = saved
    read = 0
    for cell, home in list(zip(request_.cells, homes, strict=True))[1::2]:
        known = adversarials_of(request_, store, cell)
        pictured = known.pictured.nonzero().squeeze(1).tolist()
        files = {str(file.relative_to(home / PICTURES)) for file in (home / PICTURES).glob("*/*.png")}
        assert files == {f"{known.labels[place]}/{known.indices[place]}.png" for place in pictured}
        assert len(pictured) >= 0.8 * known.success.sum()
        if not pictured:
            continue
        again = tiny_request(
            tiny_zoo, model=(cell.model,), dataset=f"folder:{home / PICTURES}", limit=None, eps=("0.5",)
        )
        assert again.subset.class_names == tuple("0123456789")
        with Store() as other:
            carry_out(again, other)
            found = other.clean(cell.model)
        by_file = sorted(pictured, key=lambda place: (str(known.labels[place]), f"{known.indices[place]}.png"))
        for image, place in enumerate(by_file):
            assert not found[image].correct
            assert found[image].label == known.labels[place]
            assert found[image].prediction == known.predictions_pictured[place]
            # Within the threat, to the bit of what a reader of pictures makes of them.
            change = again.subset.dataset.read(image).double() - known.images[place].double()
            assert cell.threat.size(change[None]).item() <= cell.threat.radius * (1 + 1e-5)
            read += 1
    assert read > 8


def test_files_are_the_same_bytes_when_they_are_written_again_after_a_death_at_any_moment(
    request_: Request, saved: tuple[Store, Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder, _ = saved
    whole = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for moment in (1, 9):
        with monkeypatch.context() as fatal:
            numbers = iter(range(moment))
            write = saving.write_bytes

            def dies(file: Path, content: bytes) -> Path:
                if next(numbers, None) is None:  # noqa: B023 (called at once)
                    raise KeyboardInterrupt
                return write(file, content)  # noqa: B023

            fatal.setattr(saving, "write_bytes", dies)
            with pytest.raises(KeyboardInterrupt):
                save_adversarials(request_, store, tmp_path)
    save_adversarials(request_, store, tmp_path)
    assert {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == whole


def test_saving_changes_no_number(request_: Request, saved: tuple[Store, Path, list[Path]], tiny_zoo: Path) -> None:
    kept, _, _ = saved
    plain = tiny_request(tiny_zoo, **OPTIONS, batch_size=3)
    with Store() as store:
        carry_out(plain, store)
        for cell in plain.cells:
            assert store.verdicts(cell) == kept.verdicts(cell)


def test_other_models_are_tried_on_no_more_images_than_without_saving(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "KEPT", 4)
    kept = []
    for saves in (False, True):
        request = tiny_request(tiny_zoo, evidence="quick", limit=9, eps=("0.5",), save_adversarials=saves)
        with Store() as store:
            # Without the evidence itself.
            for source in request.sources:
                cells, model = request.cells_of(source), request.models.get(source)
                for progress in _attack(request, model, cells, store, request.batch_size(model)):
                    store.add(*progress.rows)
            kept.append([store.adversarials(cell) for cell in request.cells])
    assert kept[0] == kept[1]
    assert 0 < len(kept[0][0]) <= 4


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("cat", "big dog", "n01440764"), ("cat", "big dog", "n01440764")),
        (("../../etc", "a/b", ".hidden"), ("0-etc", "1-a-b", "2-.hidden")),
        (("val", "test", "x"), ("0-val", "1-test", "x")),
        (("Cat", "cat", ""), ("0-Cat", "1-cat", "2")),
    ],
)
def test_every_class_has_a_folder_of_its_own_inside(names: tuple[str, ...], folders: tuple[str, ...]) -> None:
    assert saving._class_folders(names) == folders


def test_an_encoding_is_no_image(tiny_zoo: Path) -> None:
    with pytest.raises(RequestError, match="leave out space, or save_adversarials"):
        make_config({"space": "encoded", "save_adversarials": True})


@pytest.mark.filterwarnings("ignore:Images")
def test_evaluate_returns_the_images_of_each_row() -> None:
    images, labels = torch.full((3, 3, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    rows, found = evaluate(
        Band(), images, labels, "linf", ["0.05", "0.01"], steps=1, evidence="off", return_adversarials=True
    )
    assert rows["robust_correct"].tolist() == [0, 3]
    assert [one.cell.threat.text for one in found] == rows["eps"].tolist()
    broken, robust = found
    assert broken.success.tolist() == broken.pictured.tolist() == [True] * 3
    assert robust.pictured.tolist() == [False] * 3
    assert robust.predictions_pictured.tolist() == [-1] * 3
    assert (Band()(broken.adversarials).argmax(dim=1) == broken.predictions_after).all()
    assert torch.equal(broken.images, images)
    assert broken.adversarials.dtype == torch.float32
    assert isinstance(evaluate(Band(), images, labels, "linf", "0.05", steps=1, evidence="off"), type(rows))


def test_two_models_whose_names_no_folder_can_hold_do_not_share_one() -> None:
    images, labels = torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, dtype=torch.long)
    request = own_request({"a/b": Band(), "a:b": Band()}, images, labels, 2, eps=("0.1",), steps=(1, 2))
    places = list(saving._places(request.cells).values())
    assert len(set(places)) == 4
    assert places[0] == "a-b/l2-0.1-pgd-steps-1"
    # A class in a row of its own, in a folder that says so.
    aimed = [replace(request.cells[0], criterion=f"targeted:{target}") for target in (0, 3)]
    assert list(saving._places(aimed).values()) == ["a-b/l2-0.1-pgd-targeted-0", "a-b/l2-0.1-pgd-targeted-3"]


class TwoClasses(nn.Module):
    """The brighter half of a picture, as far as that can be told from one pixel in each."""

    def forward(self, images: Tensor) -> Tensor:
        return 20 * images[:, 0, 0, [0, -1]]


def test_a_model_is_not_accused_of_what_its_own_adversarial_images_do_to_it(tmp_path: Path) -> None:
    images = torch.rand(24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = images[:, 0, 0, [0, -1]].argmax(dim=1)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        # The other way round, as an attack makes it.
        levels = (255 * image.flip(2)).round().byte().permute(1, 2, 0).numpy()
        (tmp_path / str(label)).mkdir(exist_ok=True)
        Image.fromarray(levels).save(tmp_path / str(label) / f"{number}.png")
    reasons = {}
    for adversarial in (False, True):
        Manifest(classes=("0", "1"), adversarial=adversarial).write(tmp_path)
        subset = EvalSubset.of(open_dataset(f"folder:{tmp_path}", "test"))
        flags = {"norm": ("l2",), "eps": ("0.01",), "steps": (1,), "device": "cpu", "figures": False}
        source = LoadedModel(own_model("net", freeze(TwoClasses())))
        request = check_request(make_config(flags | {"skip_model_checks": not adversarial}), subset, [source])
        with Store() as store:
            carry_out(request, store)
            reasons[adversarial] = make_records(store, request.identity)["reasons"].item()
    assert reasons == {False: "class_order; guessing; transfer not done", True: "transfer not done"}
