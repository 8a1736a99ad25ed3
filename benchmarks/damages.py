"""What happens to files: bits that turn, parts that are lost, repeated or foreign, and contents meant to harm."""

import io
import pickle
import random
import re
import zipfile
from collections.abc import Callable

HARM = "harm"
"""Name of a file that only code which was hidden in an input would make."""

TRAP = "harmful_module"
"""Name of a module that makes it when it is imported."""

SOURCE = f"open({HARM!r}, 'w').close()\n\ndef make():\n    pass\n"

NAMES = (
    f"{TRAP}:make",
    f"{TRAP}.py",
    f"../{HARM}",
    f"@__import__('{TRAP}')",
    f"=cmd|'/c touch {HARM}'!A1",
    f"$(touch {HARM})",
    f"`touch {HARM}`",
    "\\u001b]0;title\\u0007",
    "[link=file:///etc/passwd]",
    "e" * 70_000,
)
"""Texts that something could take for more than text."""


class Payload:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (HARM, "w")


def damaged(content: bytes, number: int, random: random.Random) -> bytes:
    """The same content with one damage; kinds take turns by the number, places are random."""
    return DAMAGES[number % len(DAMAGES)](content, random)


def _flipped(content: bytes, random: random.Random) -> bytes:
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]


def _cut(content: bytes, random: random.Random) -> bytes:
    return content[: random.randrange(len(content))]


def _zeroed(content: bytes, random: random.Random) -> bytes:
    """A block of a disk."""
    start = random.randrange(0, len(content), 512)
    return content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :]


def _rearranged(content: bytes, random: random.Random) -> bytes:
    start, length = random.randrange(len(content)), random.randrange(1, 60)
    before, part, after = content[:start], content[start : start + length], content[start + length :]
    return random.choice([before + after, before + part * 2 + after, after + part + before, content + content])


def _digit(content: bytes, random: random.Random) -> bytes:
    """Another number, which is no less a number."""
    places = [found.start() for found in re.finditer(rb"\d", content)]
    if not places:
        return _flipped(content, random)
    place = random.choice(places)
    other = random.choice([b"-1", b"nan", b"1e999", b"9" * 400, b"%d" % ((content[place] - 47) % 10)])
    return content[:place] + other + content[place + 1 :]


def _hostile(content: bytes, random: random.Random) -> bytes:
    """One of its own texts is another, where it has any."""
    texts = list(re.finditer(rb'"([^"\n]{1,200})"|(?<=,)([A-Za-z][^,\n]{0,200})', content))
    if not texts:
        return _whole(content, random)
    one = random.choice(texts)
    start, end = one.span(1 if one[1] is not None else 2)
    return content[:start] + random.choice(NAMES).encode() + content[end:]


def _nested(content: bytes, random: random.Random) -> bytes:
    place = random.randrange(len(content))
    deep = random.choice([b"[" * 100_000, b'{"a":' * 100_000, b"a" + b".a" * 50_000 + b"=1", b"(" * 100_000])
    return random.choice([deep, content[:place] + deep + content[place:]])


def _whole(content: bytes, random: random.Random) -> bytes:
    """Something else under its name."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("archive/data.pkl", pickle.dumps({"state_dict": Payload()}, protocol=2))
        packed.writestr("archive/version", "3\n")
        packed.writestr("archive/byteorder", "little")
    others = [b"", b"\xff\xfe" + content, content.replace(b"\n", b"\r"), b"\n" * 1000, b"null", b"[]", b"{}", b"0"]
    hostile = [pickle.dumps(Payload()), archive.getvalue(), b"<!DOCTYPE html><script>1</script>"]
    return random.choice([*others, *hostile])


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flipped,
    _cut,
    _zeroed,
    _rearranged,
    _digit,
    _hostile,
    _flipped,
    _nested,
    _whole,
)
