"""Text that a terminal would act upon is shown as an escape."""

import pytest

from robustbench_bcos.core.errors import Broken, Interrupted, RequestError
from robustbench_bcos.core.text import in_markdown, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("net-b2 'Größe' 漢字 🙂", "net-b2 'Größe' 漢字 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("over\rwritten\x08\x7f", r"over\rwritten\x08\x7f"),
        ("\x9b2J", r"\x9b2J"),
        ("good\u202edab", r"good\u202edab"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("क\u200dष", "क\u200dष"),
    ],
)
def test_what_a_terminal_acts_upon_is_escaped_and_words_are_not(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert [str(error(text)) for error in (RequestError, Broken, Interrupted)] == [shown] * 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("net_b2 (l2)", "net_b2 (l2)"),
        ("![](https://a.example/p)", r"!\[\](https://a.example/p)"),
        ("[here](https://a.example)", r"\[here\](https://a.example)"),
        ("a|b\nc <b> & `x` \\", r"a\|b c &lt;b> &amp; \`x\` \\"),
        ("\x1b[2J", r"\\x1b\[2J"),
    ],
)
def test_markdown_shows_the_text(text: str, shown: str) -> None:
    assert in_markdown(text) == shown
