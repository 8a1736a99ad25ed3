"""The display of what is being done, where somebody watches."""

from types import SimpleNamespace

from rich.console import Console

from robustbench_bcos.bench import display as progress


def test_a_name_that_looks_like_markup_is_shown() -> None:
    console = Console(force_terminal=True, width=120, stderr=True, record=True)
    name = "runs[/red]net"
    step = SimpleNamespace(
        model=name, key="k", subject=f"{name} l2 0.5 pgd", images=1, rows=(1,), stage="", under_way=0.0
    )
    seen = list(progress._displayed([step], 2, console))  # type: ignore[list-item] # all that is displayed of a step
    assert seen == [step]
    assert "runs[/red]net l2 0.5 pgd" in console.export_text()
