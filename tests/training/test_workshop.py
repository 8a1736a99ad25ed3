"""From a recipe to a folder that the zoo takes, interrupted or not."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Framing
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.data.class_order import ClassOrder
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Card, TrainingSpec, Zoo
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.models import ZooModel, load_model
from robustbench_bcos.training.trainer import Epoch, train
from robustbench_bcos.training.workshop import check_request, clean_accuracy, is_made, make_model, split_digests
from tests.drafts import AS_BCOS, make_recipe

RECIPE = make_recipe(
    **AS_BCOS,
    name="my-v1.5",
    arguments={"b": 1.5},
    dataset="coloured",
    training={"kind": "adversarial", "norm": "linf", "eps": "1/64"},
    epochs=3,
    batch_size=6,
    attack_steps=1,
)
FILES = {"my-v1.5.toml", "my-v1.5.safetensors", "my-v1.5.log.csv", "my-v1.5.lock"}


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Noise with a tint of the class's own; 12 images to train on and 7 for testing."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 7)):
        for number in range(count):
            levels = random.integers(0, 180, (8, 4, 3), dtype=np.uint8)
            levels[:, :, number % 3] += 40
            file = tmp_path / "images" / split / ["red", "green", "blue"][number % 3] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels).save(file)
    return f"folder:{tmp_path}/images"


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def log(folder: Path) -> pd.DataFrame:
    """As text, which compares to the last digit."""
    return pd.read_csv(folder / "my-v1.5.log.csv", dtype=str)


def test_weights_card_and_log_are_written_and_make_a_zoo(tmp_path: Path, dataset: str) -> None:
    folder = tmp_path / "deep/trained"
    epochs: list[Epoch] = []
    card = make_model(RECIPE, folder, dataset=dataset, on_epoch=epochs.append)
    assert names(folder) == FILES
    entry = Zoo([folder])["my-v1.5"]
    assert entry.card == card
    assert (card.recipe, card.training, card.arguments) == ("my-v1.5", RECIPE.training, {"b": 1.5})
    assert card.licence
    classifier = load_model("my-v1.5", zoo=folder)
    assert isinstance(classifier, ImageClassifier)
    assert_is_what_training_gives(classifier, dataset)
    test = EvalSubset.of(open_dataset(dataset, "test")).batch(0, 7)
    correct = int((predicted_classes(classifier(test.images)) == test.labels).sum())
    assert card.clean_accuracy is not None
    assert (card.clean_accuracy.correct, card.clean_accuracy.total) == (correct, 7)
    assert list(log(folder)) == ["number", "loss", "accuracy", "seconds"]
    assert log(folder).to_numpy().tolist() == [
        [str(value) for value in astuple(epoch) if value is not None] for epoch in epochs
    ]


def assert_is_what_training_gives(classifier: ImageClassifier, dataset: str) -> None:
    trained = train(RECIPE, EvalSubset.of(open_dataset(dataset, "train"))).state_dict()
    for name, tensor in classifier.state_dict().items():
        assert torch.equal(tensor, trained[name])


def test_weights_of_half_precision_are_what_the_accuracy_was_measured_with(tmp_path: Path, dataset: str) -> None:
    whole = make_model(RECIPE, tmp_path / "whole", dataset=dataset)
    card = make_model(RECIPE.model_copy(update={"half": True}), tmp_path / "half", dataset=dataset)
    states = [load_file(tmp_path / name / "my-v1.5.safetensors") for name in ("whole", "half")]
    assert {tensor.dtype for tensor in states[1].values() if tensor.is_floating_point()} == {torch.float16}
    for name, tensor in states[0].items():
        assert torch.equal(tensor.half() if tensor.is_floating_point() else tensor, states[1][name])
    classifier = load_model("my-v1.5", zoo=tmp_path / "half")
    test = EvalSubset.of(open_dataset(dataset, "test"))
    assert clean_accuracy(classifier, test, "cpu") == card.clean_accuracy
    assert card.weights != whole.weights


@pytest.mark.parametrize("when", [1, 2, 3])
def test_an_interrupted_training_is_continued_by_the_same_call(tmp_path: Path, dataset: str, when: int) -> None:
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    make_model(RECIPE, whole, dataset=dataset)

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_model(RECIPE, halted, dataset=dataset, on_epoch=interrupt)
    assert "my-v1.5.toml" not in names(halted)
    continued: list[Epoch] = []
    make_model(RECIPE, halted, dataset=dataset, on_epoch=continued.append)
    # The epoch that was interrupted is trained again; those before it are not.
    assert [epoch.number for epoch in continued] == list(range(when, 4))
    assert names(halted) == FILES
    for name in ("my-v1.5.toml", "my-v1.5.safetensors"):
        assert (halted / name).read_bytes() == (whole / name).read_bytes()
    columns = ["number", "loss", "accuracy"]
    assert log(halted)[columns].equals(log(whole)[columns])


@pytest.mark.parametrize(
    "text", ["", "epoch,loss\n1,2\n", "number,loss,accuracy\n1.5,1,1\n", "number,loss,accuracy\nx,1,1\n"]
)
def test_a_damaged_log_is_refused_before_an_epoch_is_trained(tmp_path: Path, dataset: str, text: str) -> None:
    def interrupt(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_model(RECIPE, tmp_path, dataset=dataset, on_epoch=interrupt)
    file, trained = tmp_path / "my-v1.5.log.csv", list[Epoch]()
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=r"my-v1\.5\.log\.csv is no log of a training \(.*\): remove it, or train"):
        make_model(RECIPE, tmp_path, dataset=dataset, on_epoch=trained.append)
    assert trained == []
    file.unlink()
    litter = [tmp_path / f"my-v1.5.{name}.{'0f' * 8}.partial" for name in ("ckpt", "log.csv")]
    others = tmp_path / f"my-v1.5.1.ckpt.{'0f' * 8}.partial"
    for left in (*litter, others):
        left.touch()
    make_model(RECIPE, tmp_path, dataset=dataset)
    assert log(tmp_path)["number"].tolist() == ["2", "3"]
    assert names(tmp_path) - {"images"} == FILES | {others.name}


def test_a_model_is_trained_by_one_process_at_a_time(tmp_path: Path, dataset: str) -> None:
    def again(epoch: Epoch) -> None:
        with pytest.raises(RequestError, match=r"my-v1.5 is being trained in \S+ by another process: wait for it, or"):
            make_model(RECIPE, tmp_path / "zoo", dataset=dataset)

    make_model(RECIPE, tmp_path / "zoo", dataset=dataset, on_epoch=again)


def test_a_job_that_finds_another_at_work_waits_and_trains_nothing_twice(tmp_path: Path, dataset: str) -> None:
    digests = split_digests(dataset, data_dir=None, class_order=None)
    epochs: list[Epoch] = []
    with ThreadPoolExecutor(1) as pool:
        second: list[Future[Card]] = []

        def submit_again(epoch: Epoch) -> None:
            if not second:
                second.append(
                    pool.submit(
                        make_model,
                        RECIPE,
                        tmp_path / "zoo",
                        dataset=dataset,
                        on_epoch=epochs.append,
                        elsewhere=digests,
                    )
                )

        first = make_model(RECIPE, tmp_path / "zoo", dataset=dataset, on_epoch=submit_again)
    assert second[0].result() == first
    assert epochs == []


def test_pictures_of_any_size_are_framed_as_the_recipe_says(tmp_path: Path) -> None:
    for split, (height, width) in {"train": (9, 12), "test": (16, 8)}.items():
        for number, name in enumerate(("a", "b")):
            (tmp_path / split / name).mkdir(parents=True)
            pixels = np.full((height + number, width, 3), 40 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / name / "0.png")
    recipe = RECIPE.model_copy(update={"classes": 2, "resize": 8, "image_size": (8, 8)})
    dataset = f"folder:{tmp_path}"
    check_request([recipe], dataset)
    with pytest.raises(RequestError, match="expects"):
        check_request([recipe.model_copy(update={"resize": None})], dataset)
    framed = split_digests(dataset, data_dir=None, class_order=None, framing=recipe.framing)
    assert framed != split_digests(dataset, data_dir=None, class_order=None, framing=Framing(resize=8, crop=(8, 4)))


def test_a_job_that_has_other_images_says_so(tmp_path: Path, dataset: str) -> None:
    train_images, test_images = split_digests(dataset, data_dir=None, class_order=None)
    for digests in ((train_images, "0"), ("0", test_images)):
        with pytest.raises(
            RequestError, match=r"images of folder:\S+ on \S+ are others than where the work was submitt"
        ):
            make_model(RECIPE, tmp_path / "zoo", dataset=dataset, elsewhere=digests)
    assert not (tmp_path / "zoo").exists()


def test_a_second_training_replaces_the_first(tmp_path: Path, dataset: str) -> None:
    folder = tmp_path / "trained"
    make_model(RECIPE, folder, dataset=dataset)
    other = RECIPE.model_copy(update={"seed": 1, "epochs": 2})
    card = make_model(other, folder, dataset=dataset)
    assert names(folder) == FILES
    assert Zoo([folder])["my-v1.5"].card == card
    assert log(folder)["number"].tolist() == ["1", "2"]
    ZooModel(Zoo([folder])["my-v1.5"]).load()


def test_a_recipe_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(RequestError, match=r"^recipe 'my-v1\.5' expects .* = \(3, 8, 5\), folder:.* has \(3, 8, 4\)"):
        make_model(RECIPE.model_copy(update={"image_size": (8, 5)}), tmp_path / "out", dataset=dataset)
    with pytest.raises(RequestError, match=r"^recipe 'my-v1\.5' expects .*, digits has \(10, 8, 8\)"):
        make_model(RECIPE, tmp_path / "out", dataset="digits")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, dataset: str) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(RequestError, match=f"^{tmp_path}/out cannot be written .*: choose another folder$"):
        make_model(RECIPE, tmp_path / "out", dataset=dataset)


def test_training_needs_a_training_part(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(RequestError, match="has no folder train: training needs"):
        make_model(RECIPE, tmp_path / "out", dataset=f"{dataset}/test")


def test_a_card_says_which_folder_is_which_output_and_test_images_are_numbered_by_it(
    dataset: str, tmp_path: Path
) -> None:
    # A class that is not among the test images would shift the others.
    shutil.rmtree(tmp_path / "images/test/blue")
    card = make_model(RECIPE, tmp_path / "zoo", dataset=dataset)
    assert card.class_names == ("blue", "green", "red")
    assert Zoo([tmp_path / "zoo"]).entries[RECIPE.name].card == card
    order = ClassOrder.of("a list", [["red"], ["blue"], ["green"]])
    ordered = make_model(RECIPE, tmp_path / "ordered", dataset=dataset, class_order=order)
    assert ordered.class_names == ("red", "blue", "green")


def test_models_are_kept_on_the_way_and_an_interruption_loses_none(tmp_path: Path, dataset: str) -> None:
    recipe = RECIPE.model_copy(
        update={"name": "mine-seed3", "epochs": 2, "kept": (0.0, 0.5, 1.0), "training": TrainingSpec()}
    )

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    make_model(recipe, tmp_path / "whole", dataset=dataset)
    with pytest.raises(KeyboardInterrupt):
        make_model(recipe, tmp_path / "halves", dataset=dataset, on_epoch=interrupt)
    assert not is_made(recipe, tmp_path / "halves")
    make_model(recipe, tmp_path / "halves", dataset=dataset)
    kept = [f"mine-epoch{epochs}-seed3" for epochs in ("0", "0.5", "1")]
    for name in (*kept, "mine-seed3"):
        whole, halves = (Zoo((tmp_path / part,)).entries[name].card for part in ("whole", "halves"))
        assert whole.weights.sha256 == halves.weights.sha256
        assert whole.name == name
    assert len({Zoo((tmp_path / "whole",)).entries[name].card.weights.sha256 for name in (*kept, "mine-seed3")}) == 4
    assert is_made(recipe, tmp_path / "whole")
    (tmp_path / "whole" / f"{kept[1]}.toml").unlink()
    assert not is_made(recipe, tmp_path / "whole")
