"""How far a long call is: a bar of rich in a terminal, a bar of HTML in a notebook, nothing elsewhere.

The long calls take `progress=True` and `callback=`. What a callback receives says by `shown` how much is done, of how much (None
where that is unknown), and the rest in words. `watched` joins the two: it gives the callback that the call should use.
"""

import contextlib
import html
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from jaxem.checks import check_callback

Update: TypeAlias = Callable[[int, int | None, str], None]
"""moves a bar: done, of how many or None, words"""
PAUSE = 0.1
"""seconds between two changes of a bar in a notebook"""


class FitProgress(NamedTuple):
    """How far `fit` is; its callback receives it.

    Attributes:
        turns: turns made so far.
        objective: log-likelihood + log prior so far.
        remaining_gain: an estimate of what is left to gain, in nats; NaN if unknown.
    """

    turns: int
    objective: float
    remaining_gain: float

    @property
    def shown(self) -> tuple[int, int | None, str]:
        """What a bar shows; nobody knows how many turns there will be."""
        left = "" if self.remaining_gain != self.remaining_gain else f", about {self.remaining_gain:.1g} left to gain"
        return self.turns, None, f"{self.turns} turns, {self.objective:.4f}{left}"


def of_fit(seen: Any) -> FitProgress:
    """How far a climb is, by its Result so far, or by its State."""
    objective = seen.here.objective if hasattr(seen, "here") else seen.objective
    return FitProgress(int(seen.n_iter), float(objective), float(seen.remaining_gain))


@contextlib.contextmanager
def watched(
    name: str, progress: bool, callback: Callable[[Any], None] | None, what: Callable[[Any], Any] = lambda seen: seen
) -> Iterator[Any]:
    """What a long call should tell what it sees, or None: it moves the bar, if one is wanted, and calls `callback`.

    Both get `what(seen)`.

    Raises:
        TypeError: for a callback that cannot be called, or a `progress` that is neither True nor False.
        ImportError: where a bar needs a package that is not installed.
    """
    check_callback(callback)
    if callback is None and progress is False:
        yield None
        return
    with bar(name, progress) as update:

        def hear(seen: Any) -> None:
            told = what(seen)
            update(*told.shown)
            if callback is not None:
                callback(told)

        yield hear


@contextlib.contextmanager
def bar(name: str, wanted: bool = True) -> Iterator[Update]:
    """A bar while the block runs, and what moves it; without `wanted`, or where nobody looks, none."""
    if not isinstance(wanted, (bool, np.bool_)):
        raise TypeError(f"progress is {wanted!r}; give True or False")
    if not wanted:
        yield lambda done, total, words: None
    elif _is_notebook():
        with _in_notebook(name) as update:
            yield update
    else:
        with _in_terminal(name) as update:
            yield update


def _is_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _is_terminal() -> bool:
    """Whether somebody looks at stderr; rich would also believe FORCE_COLOR, which notebooks set for the commands they start."""
    return sys.stderr.isatty()


@contextlib.contextmanager
def _in_terminal(name: str) -> Iterator[Update]:
    """On stderr, and gone at the end."""
    if importlib.util.find_spec("rich") is None:
        raise ImportError("progress=True needs rich: pip install 'jaxem[cli]'")
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    is_terminal = _is_terminal()
    console = Console(stderr=True, force_terminal=is_terminal)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not is_terminal) as shown:
        task = shown.add_task(name, total=None)

        def update(done: int, total: int | None, words: str) -> None:
            place = done if total is None else min(done, total)
            shown.update(task, total=total, completed=place, description=f"{name}: {words}")

        yield update


@contextlib.contextmanager
def _in_notebook(name: str) -> Iterator[Update]:
    """Below the cell, and gone at the end."""
    notebook, last = sys.modules["IPython.display"], 0.0
    handle = notebook.display(notebook.HTML(f"<div>{html.escape(name)}</div>"), display_id=True)

    def update(done: int, total: int | None, words: str) -> None:
        nonlocal last
        if time.monotonic() - last > PAUSE:
            last = time.monotonic()
            share = "" if total is None else f' value="{min(done, total)}" max="{total}"'
            handle.update(notebook.HTML(f"<div><progress{share}></progress> {html.escape(f'{name}: {words}')}</div>"))

    try:
        yield update
    finally:
        handle.update(notebook.HTML(""))
