"""Examples in docstrings and in the README run, links lead somewhere, and numbers are those that were measured.

The pages in docs/ run when the site is built, which the gate does.
"""

import ast
import contextlib
import csv
import doctest
import importlib.util
import io
import math
import re
import tomllib
from pathlib import Path

import jax
import pytest

import jaxem
from experiments.benchmark import COLUMNS, as_summary
from tests.conftest import X64

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
LINKED = PAGES | {name: ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n[^`#|]*\n\n```text\n(.*?)```)?", re.S)
"""a block of Python, and what it prints where a block of text follows after at most one paragraph"""


@pytest.mark.parametrize(
    "module",
    [
        "jaxem.loop",
        "jaxem.estimator",
        "jaxem.sklearn",
        *(
            pytest.param(f"jaxem.{name}", marks=pytest.mark.slow)
            for name in ("laws", "inference", "resampling", "comparison")
        ),
    ],
)
def test_docstrings(module):
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.fixture
def settings():
    yield
    jax.config.update("jax_enable_x64", X64)  # as conftest set it, whatever the page did


@pytest.mark.skipif(not X64, reason="the pages print float64 digits")
def test_readme_runs(settings):
    """Every Python block of the README runs, in order, and prints what the README says it prints."""
    namespace = {}
    for block, expected in EXAMPLE.findall(PAGES["README.md"].read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "README.md", "exec"), namespace)
        assert bool(expected) == bool(printed.getvalue()), printed.getvalue()
        assert looks_like(printed.getvalue(), expected), printed.getvalue()


def looks_like(printed, expected):
    """The same words, and decimals equal to 1e-3; whole numbers and powers of ten may depend on the machine's rounding."""
    number = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
    same_words = number.sub("0", printed).split() == number.sub("0", expected).split()
    pairs = zip(number.findall(printed), number.findall(expected), strict=same_words)
    return same_words and all(
        math.isclose(float(a), float(b), rel_tol=1e-3) for a, b in pairs if "." in b and "e" not in b
    )


def slug(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", LINKED)
def test_links_lead_somewhere(page):
    """Relative links point to files that exist and headings that are there; commands name files that exist."""
    text = LINKED[page].read_text()
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)", text):
        file = (LINKED[page].parent / target).resolve() if target else LINKED[page]
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in map(slug, re.findall(r"(?m)^#+ (.*)$", file.read_text())), anchor
    for name in re.findall(r"\b(?:tests|configs)/\w+\.(?:py|toml)", text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m ((?:experiments|tests)\.[a-z_]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


@pytest.mark.parametrize("page", LINKED)
def test_tables_are_whole(page):
    """Every line of a table has the columns of its head: a blank line inside a table makes the rest of it text."""
    for block in re.split(r"\n\n+", re.sub(r"(?s)```.*?```", "", LINKED[page].read_text())):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert not rows or re.fullmatch(r"\|(?:-+\|)+", rows[1]), f"{page}: a table without a head: {rows[0]}"
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1, f"{page}: {rows[0]}"


def words_of(node):
    """What a string, or a sum of strings, says in any case."""
    return "".join(
        part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


def warnings_of(tree):
    """The words of each warning in a file, and of each caution that becomes one."""
    for node in ast.walk(tree):
        name = getattr(node, "name", "")
        if isinstance(node, ast.Call) and (getattr(node.func, "id", "") or getattr(node.func, "attr", "")) in (
            "warn",
            "warn_user",
        ):
            yield words_of(node.args[0])
        elif isinstance(node, ast.FunctionDef) and ("cautions" in name or name == "_about_counts"):
            yield from map(words_of, (part for part in ast.walk(node) if isinstance(part, ast.JoinedStr)))


def test_troubleshooting_knows_every_status_and_every_warning():
    page = PAGES["docs/troubleshooting.md"].read_text()
    for status in jaxem.Status:
        assert f"| `{status.name}` |" in page
    table = page.split("## Warnings")[1].split("##")[0]
    quoted = re.findall(r"(?m)^\| `([^`]+)` \|", table)
    sources = [ast.parse(path.read_text()) for path in (ROOT / "jaxem").rglob("*.py")]
    told = [words for tree in sources for words in warnings_of(tree) if len(words) > 12]  # not formats such as .2g
    assert len(told) > 15
    assert [words for words in told if not any(quote in words for quote in quoted)] == []
    everything = " ".join(words_of(tree) for tree in sources)
    assert [quote for quote in quoted if quote not in everything] == []


def test_every_public_name_has_a_page():
    """reference.md lists what jaxem exports, and nothing that is not there."""
    listed = set(re.findall(r"(?m)^   (jaxem\.[\w.]+)$", PAGES["docs/reference.md"].read_text()))
    assert {f"jaxem.{name}" for name in jaxem.__all__} - {"jaxem.__version__"} <= listed
    for name in listed:
        module, _, own = name.rpartition(".")
        assert getattr(importlib.import_module(module), own).__doc__, name


def test_every_figure_is_in_the_gallery():
    """Each belongs to one experiment, which has a row in experiments.md; from these the gallery is made."""
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs/gallery.py")
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    findings = dict(gallery.FINDING.findall(PAGES["docs/experiments.md"].read_text()))
    assert {path.stem for path in (ROOT / "configs").glob("*.toml")} - {"gpu"} == set(findings)
    names = list(findings)
    shown = {figure for name in names for figure in gallery.figures_of(name, names)}
    assert shown == {path.stem for path in (ROOT / "experiments/figures").glob("*.png")}
    page = gallery.page("missing", findings["missing"], ["missing"])
    assert "../../experiments/figures/missing.png" in page
    assert "figure]" not in page.split("![")[0]


def test_versions_agree():
    """The version is written in `jaxem/__init__.py`; what speaks of it agrees."""
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in package["project"]["dynamic"]
    assert package["tool"]["hatch"]["version"]["path"] == "jaxem/__init__.py"
    assert re.search(r"(?m)^## (.*)$", (ROOT / "CHANGELOG.md").read_text())[1] == jaxem.__version__
    assert f"\nversion: {jaxem.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_speeds_are_measured():
    """The tables of speed are what the benchmark wrote, row for row, and the README's rows are some of them."""
    with (ROOT / "experiments/figures/benchmark.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == set(COLUMNS)
    summary = as_summary(rows)
    assert summary in (ROOT / "docs/speed.md").read_text()
    table = re.search(r"(?m)^\| one pass .*\n(?:\|.*\n)+", (ROOT / "README.md").read_text())
    assert table
    assert set(table[0].splitlines()) <= set(summary.splitlines())
