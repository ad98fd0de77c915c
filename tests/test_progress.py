"""What long calls tell while they run: callbacks, bars, and the same numbers with and without them."""

import sys
import types

import jax
import numpy as np
import pytest

import jaxem
from jaxem.progress import FitProgress, bar

pytestmark = pytest.mark.any_dtype
X = jaxem.datasets.faithful()
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def start():
    return jaxem.starts(KEY, "full", X, 2, 1)[0]


class Pieces(jaxem.Source):
    """More rows than a source is read into memory for, so that the host drives the climb."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        yield from [self.x] * 300


def same(a, b):
    return all(
        np.array_equal(one, other, equal_nan=True)
        for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("wrap", [np.asarray, Pieces], ids=["array", "source"])
def test_fit_tells_how_far_it_is(start, wrap):
    seen = []
    told = jaxem.fit(start, wrap(X), max_iter=5, callback=seen.append)
    assert all(isinstance(one, FitProgress) for one in seen)
    turns = [one.turns for one in seen]
    assert turns == sorted(turns)
    assert turns[-1] == int(told.n_iter)
    assert seen[-1].objective == float(told.objective)
    assert same(told, jaxem.fit(start, wrap(X), max_iter=5))


def test_an_exception_in_a_callback_ends_the_climb(start):
    def stop(seen):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jaxem.fit(start, X, callback=stop)


def test_callbacks_are_for_the_host(start):
    with pytest.raises(TypeError, match="fit with a callback or progress decides from the host"):
        jax.jit(lambda mixture: jaxem.fit(mixture, X, progress=True).log_likelihood)(start)
    for call in (lambda: jaxem.fit(start, X, progress="yes"), lambda: jaxem.select(KEY, "full", X, 2, progress=None)):
        with pytest.raises(TypeError, match=r"progress is .*; give True or False"):
            call()
    with pytest.raises(TypeError, match="callback is 3"):
        jaxem.fit(start, X, callback=3)
    heard = []
    weights = np.ones(len(X))
    slope = jax.grad(lambda w: jaxem.fit(start, X, w, callback=heard.append).log_likelihood)(weights)
    assert heard
    assert same(slope, jax.grad(lambda w: jaxem.fit(start, X, w).log_likelihood)(weights))


CALLS = {
    "fit": lambda **options: jaxem.fit(jaxem.starts(KEY, "full", X, 2, 1)[0], X, **options),
    "fit_restarts": lambda **options: jaxem.fit_restarts(jaxem.starts(KEY, "full", X, 2, 4), X, **options),
    "search": lambda **options: jaxem.search(KEY, "full", X, 2, budget=64, **options).best,
    "select": lambda **options: jaxem.select(KEY, "full", X, [1, 2], budget=64, **options).best.best,
    "bootstrap": lambda **options: (
        (
            jaxem.bootstrap(KEY, jaxem.search(KEY, "full", X, 2, budget=64).best.mixture, X, n_replicates=8, **options)
        ).replicates
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bar_is_shown_in_a_terminal_alone_and_changes_no_number(name, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as notebooks do; it makes no terminal
    plain = CALLS[name]()
    silent = CALLS[name](progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("jaxem.progress._is_terminal", lambda: True)
    shown = CALLS[name](progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert name.removesuffix("_restarts") in err
    assert same(plain, silent)
    assert same(plain, shown)


@pytest.fixture
def notebook(monkeypatch):
    """What is shown in a notebook's cell."""
    shown = []
    shell = type("ZMQInteractiveShell", (), {})()
    handle = types.SimpleNamespace(update=shown.append)

    def show(what, display_id):
        shown.append(what)
        return handle

    display = types.SimpleNamespace(HTML=str, display=show)
    package = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("jaxem.progress.PAUSE", -1.0)
    return shown


def test_a_bar_in_a_notebook(notebook, capsys):
    with bar("search") as update:
        update(3, 10, "best <b>")
        update(12, 10, "over")
        update(5, None, "turns")
    assert notebook[1] == '<div><progress value="3" max="10"></progress> search: best &lt;b&gt;</div>'
    assert 'value="10" max="10"' in notebook[2]
    assert "<progress></progress>" in notebook[3]
    assert notebook[-1] == ""
    with pytest.raises(ValueError, match="stop"), bar("search"):
        raise ValueError("stop")
    assert notebook[-1] == ""  # no bar is left behind
    assert capsys.readouterr() == ("", "")


def test_a_bar_without_rich_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'jaxem\[cli\]'"), bar("search"):
        pass
