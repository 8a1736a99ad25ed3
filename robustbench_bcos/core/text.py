"""Text from files and other people's programs, made harmless where it is shown."""

import re
import unicodedata

ACTIVE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that a terminal or an editor acts upon: control and format characters, which turn the direction of
writing or hide what follows, lone surrogates and separators of lines."""

KEPT = "\n\t"

JOINERS = "\u200c\u200d"
"""Format characters that words of some languages are written with."""


def printable(text: str) -> str:
    r"""The text, with what a terminal would act upon written as an escape such as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) if _is_active(character) else character for character in text)


def counted(number: int, what: str) -> str:
    """``1 step`` and ``20 steps``, of what has a regular plural."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def in_markdown(text: str) -> str:
    """Markdown that shows the text: on one line, in one cell of a table, without tags, links and pictures."""
    escaped = re.sub(r"[\\`*|\[\]]", r"\\\g<0>", " ".join(printable(text).splitlines()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def _is_active(character: str) -> bool:
    return unicodedata.category(character) in ACTIVE and character not in KEPT + JOINERS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
