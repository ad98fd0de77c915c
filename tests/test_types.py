"""Type checkers see every public name, although `import jaxem` is lazy."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxem

ROOT = Path(__file__).parents[1]
USE = """
import jax
import jaxem

x = jaxem.datasets.faithful()
found = jaxem.search(jax.random.key(0), jaxem.Full(), x, n_components=3)
reveal_type(found.best.mixture)  # jaxem.mixture.Mixture
reveal_type(jaxem.fit(found.best.mixture, x, stop=jaxem.GainBelow(1e-6)).log_likelihood)  # Array
reveal_type(jaxem.e_step(found.best.mixture, x))  # jaxem.stats.Stats
reveal_type(jaxem.verify(found.best.mixture, x).ok)  # bool
reveal_type(jaxem.Status.CONVERGED)  # jaxem.stopping.Status
reveal_type(jaxem.KMeansPlusPlus())  # jaxem.init.KMeansPlusPlus
reveal_type(jaxem.chen_tan(x) + jaxem.Dirichlet(2.0))  # jaxem.priors.Prior
reveal_type(jaxem.io.load("model"))  # jaxem.mixture.Mixture
reveal_type(jaxem.sklearn.GaussianMixture(2).fit(x))  # jaxem.sklearn.GaussianMixture
"""


def imports_for_types():
    """Name -> module of every `from module import name as name` under `if TYPE_CHECKING:` of jaxem/__init__.py."""
    tree = ast.parse(Path(jaxem.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name}: only `import {alias.name} as {alias.name}` is public"
            yield alias.name, node.module


def test_type_checkers_see_what_the_lazy_import_gives():
    expected = {name: f"jaxem.{home}" for name, home in jaxem._HOME.items()}
    assert dict(imports_for_types()) == expected | dict.fromkeys(jaxem._MODULES, "jaxem")
    assert (Path(jaxem.__file__).parent / "py.typed").is_file()


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy, of the extra dev")
def test_types_are_real(tmp_path):
    """What mypy reveals of a user's file are types, not Any, and a misspelt name is an error."""
    checks = [f"reveal_type(jaxem.{name})  # " for name in jaxem.__all__]
    lines = [*USE.splitlines(), *checks, "jaxem.fitt"]
    file = tmp_path / "use.py"
    file.write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    revealed = dict(re.findall(r'use\.py:(\d+): note: Revealed type is "(.*)"', said))
    for number, line in enumerate(lines, start=1):
        if line.startswith("reveal_type"):
            seen, expected = revealed.get(str(number), "nothing"), line.split("# ")[1]
            assert seen not in ("Any", "nothing"), f"{line}: {seen}"
            assert expected in seen, f"{line}: {seen}"
    assert f'use.py:{len(lines)}: error: Module has no attribute "fitt"' in said
