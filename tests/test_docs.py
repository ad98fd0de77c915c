"""Examples in docstrings and in the README are run."""

import csv
import doctest
import importlib
import re
from pathlib import Path

import jax
import pytest

import jaxem
from experiments.benchmark import COLUMNS, as_summary
from tests.conftest import X64

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("module", ["jaxem.loop", "jaxem.sklearn", pytest.param("jaxem.laws", marks=pytest.mark.slow)])
def test_docstrings(module):
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.skipif(not X64, reason="the README prints float64 digits")
def test_readme():
    """Every python block of the README runs, in order, and prints what the README says it prints."""
    text = (ROOT / "README.md").read_text()
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks
    runner = doctest.DocTestRunner()
    for i, block in enumerate(blocks):
        if ">>>" in block:
            example = doctest.DocTestParser().get_doctest(block, namespace, f"README block {i}", None, None)
            runner.run(example, clear_globs=False)
            assert runner.failures == 0
            namespace = example.globs  # a reader types on
        else:
            exec(compile(block, f"README block {i}", "exec"), namespace)
    jax.config.update("jax_enable_x64", True)  # as conftest set it, whatever the README did


def test_versions_agree():
    assert f'version = "{jaxem.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {jaxem.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_readme_numbers():
    """The README's tables of speed are what the benchmark wrote, row for row."""
    with (ROOT / "experiments/figures/benchmark.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == set(COLUMNS)
    assert as_summary(rows) in (ROOT / "README.md").read_text()
