"""The house: imports go down only, the import is lazy and changes nothing, every public name is there and documented."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jaxem

PACKAGE = Path(jaxem.__file__).parent
FLOORS = {
    "rows": 0, "stats": 0, "stopping": 0, "accelerate": 0, "display": 1, "priors": 1, "families.base": 1, "families.gaussian": 2,
    "families.discrete": 2, "compiling": 2, "mixture": 2, "em": 3, "loop": 4, "init": 4, "restarts": 5, "laws": 5,
    "racing": 6, "io": 6, "datasets": 6, "sklearn": 7, "plots": 7, "html": 7, "cli.terminal": 8, "cli.words": 8,
    "cli.commands": 9, "cli.__main__": 10,
}  # fmt: skip


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
            yield name, ast.parse(path.read_text())


def imports(tree):
    """Modules of jaxem that a file imports when it is imported (not inside functions, not for types alone)."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxem."):
            yield node.module.removeprefix("jaxem.")


def test_every_file_has_a_floor():
    assert {name for name, _ in modules()} == set(FLOORS)


@pytest.mark.parametrize(("name", "tree"), list(modules()), ids=[name for name, _ in modules()])
def test_imports_go_down(name, tree):
    for other in imports(tree):
        assert FLOORS[other] < FLOORS[name], f"{name} (floor {FLOORS[name]}) imports {other}"
        if name in ("em", "loop", "restarts"):
            assert not other.startswith("families.") or other == "families.base"
    opening = ast.get_docstring(tree)
    assert opening
    assert len(opening.splitlines()) <= 40


def test_optimisation_knows_nothing_of_mixtures():
    trees = dict(modules())
    assert list(imports(trees["stopping"])) == []
    assert list(imports(trees["accelerate"])) == []


def test_public_names_are_documented():
    for name in jaxem.__all__:
        value = getattr(jaxem, name)
        if name != "__version__":
            assert inspect.getdoc(value), name
    assert set(jaxem.__all__) <= set(dir(jaxem))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        jaxem.nonsense  # noqa: B018


def run(code, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_import_is_lazy_and_changes_no_setting():
    done = run("import sys, jaxem; assert 'jax' not in sys.modules and 'numpy' not in sys.modules; jaxem.__version__")
    assert done.returncode == 0, done.stderr
    code = """
import jax, logging, signal, warnings, numpy as np
def settings():
    return dict(jax.config.values), list(warnings.filters), np.geterr(), signal.getsignal(2), logging.root.handlers[:]
before = settings()
import jaxem
for name in jaxem.__all__: getattr(jaxem, name)
assert settings() == before
"""
    done = run(code, JAX_ENABLE_X64="0")
    assert done.returncode == 0, done.stderr


def test_help_does_not_import_jax():
    code = "import sys, jaxem.cli; assert 'jax' not in sys.modules and 'pyarrow' not in sys.modules"
    done = run(code)
    assert done.returncode == 0, done.stderr


REQUIRED_ONLY = """
import sys
for extra in "typer rich pyarrow pydantic platformdirs matplotlib sklearn pandas polars pytest hypothesis".split():
    sys.modules[extra] = None
import jax, jaxem, jaxem.io, jaxem.datasets
x = jaxem.datasets.faithful()
found = jaxem.search(jax.random.key(0), jaxem.Full(), x, 2)
assert abs(float(found.best.log_likelihood) + 1130.264) < 1e-2
assert jaxem.verify(found.best.mixture, x).ok
jaxem.io.save(found.best.mixture, sys.argv[1] + "/m")
jaxem.io.load(sys.argv[1] + "/m")
open(sys.argv[1] + "/x.csv", "w").write("a,b\\n1,2\\n")
for what, needs in (
    (lambda: jaxem.datasets.read_table(sys.argv[1] + "/x.csv"), "jaxem[cli]"),
    (lambda: __import__("jaxem.sklearn"), "jaxem[sklearn]"),
    (lambda: __import__("jaxem.cli"), "jaxem[cli]"),
):
    try:
        what()
    except (ModuleNotFoundError, SystemExit) as error:
        assert needs in str(error), error
    else:
        raise AssertionError(needs)
"""


def test_the_core_needs_no_extra_and_no_home(tmp_path):
    """Each missing extra is named, with the command that installs it."""
    import os

    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", REQUIRED_ONLY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
