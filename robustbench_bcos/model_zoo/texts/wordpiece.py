"""Word pieces of uncased BERT (Devlin et al., 2019): words in lower case, without accents, cut into known pieces."""

import unicodedata
from collections.abc import Iterator, Mapping

LONGEST = 100
"""Letters of a word beyond which it is not looked at."""

UNKNOWN = "[UNK]"

IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
"""Each of them is a word."""


def pieces_of(text: str, vocabulary: Mapping[str, int]) -> list[str]:
    """The pieces, without marks of beginning and end."""
    return [piece for word in _words(text) for piece in _pieces(word, vocabulary)]


def _words(text: str) -> Iterator[str]:
    plain = unicodedata.normalize("NFD", "".join(_separated(text)).lower())
    for run in plain.split():
        word = ""
        for letter in run:
            if unicodedata.category(letter) == "Mn":
                continue
            if not _is_punctuation(letter):
                word += letter
                continue
            if word:
                yield word
            yield letter
            word = ""
        if word:
            yield word


def _separated(text: str) -> Iterator[str]:
    for letter in text:
        code, category = ord(letter), unicodedata.category(letter)
        if letter.isspace():
            yield " "
        elif code == 0xFFFD or category in ("Cc", "Cf", "Co"):
            continue
        elif any(first <= code <= last for first, last in IDEOGRAPHS):
            yield f" {letter} "
        else:
            yield letter


def _is_punctuation(letter: str) -> bool:
    # Of ASCII, whatever is neither letter nor digit, such as $ and ^.
    return (letter.isascii() and not letter.isalnum()) or unicodedata.category(letter).startswith("P")


def _pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """The longest known piece from the left, again and again."""
    pieces: list[str] = []
    start = 0
    while start < len(word) <= LONGEST:
        mark = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in vocabulary), None)
        if end is None:
            return [UNKNOWN]
        pieces.append(mark + word[start:end])
        start = end
    return pieces or [UNKNOWN]
