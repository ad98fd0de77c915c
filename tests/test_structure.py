"""The house: imports go down only, the import is lazy and changes nothing, every public name is there and documented."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxem

PACKAGE = Path(jaxem.__file__).parent
FLOORS = {
    "primitives": -1, "names": 0, "criteria": 0, "stats": 0, "accelerate": 0, "stopping": 0,
    "checks": 1, "kept": 1, "progress": 2,
    "atomic": 1, "moments": 1, "linalg": 1, "distances": 1, "display": 1, "program": 2, "families.base": 1,
    "holes": 0, "observed": 2,
    "devices": 2, "priors": 2, "newton": 2, "rotations": 2, "threads": 3,
    "rows": 4, "source": 5, "journal": 5, "processes": 6, "partitions": 6, "penalties": 3, "holding": 3,
    "families.gaussian": 4, "families.discrete": 4, "families.fixed": 3,
    "families.algebra": 3, "families.movable": 2, "families.incomplete": 3, "families.holdable": 2,
    "families.numerical": 2, "families.regression": 5,
    "families.matrices": 5, "families.diagonal": 5, "families.student_t": 6, "families.deconvolved": 6,
    "families.tied": 6, "families.ellipsoidal": 7,
    "pointwise": 4.5, "mixture": 5, "divergence": 6, "held": 6,
    "em": 6, "ordering": 6, "saddles": 6, "curvature": 6,
    "parts": 7, "init": 7, "implicit": 7, "replicas": 6,
    "online": 7, "loop": 8, "recipes": 8,
    "inference": 8, "influences": 9, "laws": 9, "lanes": 9, "standard": 9, "dependence": 9, "slots": 9,
    "queue": 10, "resampling": 10,
    "reasons": 11, "layout": 11, "columns": 11,
    "collapse": 12, "rounds": 12, "racing": 13, "comparison": 14, "selection": 15,
    "canvas": 0, "drawing": 14, "charts": 15,
    "playing": 15, "estimator": 16, "plots": 16, "html": 16, "io": 16, "datasets": 16,
    "files": 17, "exchange": 17, "sklearn": 17,
    "cli.signals": 17,
    "cli.terminal": 18,
    "cli.manual": 18, "cli.reading": 19, "cli.kinds": 19, "cli.words": 20, "cli.records": 20,
    "cli.commands": 21, "cli.models": 22, "cli.__main__": 23, "__main__": 24,
}  # fmt: skip
READ_CORE = {
    "stats": 40, "families.base": 395, "families.gaussian": 505, "priors": 265, "mixture": 240,
    "em": 195, "stopping": 230, "accelerate": 230, "loop": 570,
}  # fmt: skip
"""what a person reads to understand the library, and the most lines that each file may have"""
FAMILIES = {
    "families.movable": 90, "families.diagonal": 120, "families.incomplete": 95, "families.holdable": 110,
     "families.deconvolved": 455,
    "families.discrete": 395, "families.matrices": 185, "families.tied": 185, "families.student_t": 330, "families.algebra": 600,
    "families.fixed": 220, "families.regression": 245, "families.numerical": 195, "families.ellipsoidal": 580,
}  # fmt: skip
"""the other families, a page each under the contract of `families.base`"""
ENGINE_ROOM = {
    "names": 40, "atomic": 165, "primitives": 180, "linalg": 185, "distances": 110, "checks": 475, "moments": 80, "rows": 610,
    "holes": 150, "observed": 245,
    "devices": 70,
    "kept": 260, "program": 350, "threads": 140, "parts": 140, "source": 530, "journal": 265,
    "processes": 220, "partitions": 440, "init": 440, "recipes": 155, "saddles": 85,
    "penalties": 115, "progress": 150, "criteria": 30,
    "lanes": 480, "queue": 395, "rounds": 405, "racing": 345, "display": 480, "laws": 660, "ordering": 90, "online": 325,
    "holding": 220, "held": 255, "pointwise": 125,
    "newton": 145, "rotations": 170, "standard": 90, "dependence": 135, "slots": 45, "divergence": 40,
    "curvature": 150, "implicit": 240, "inference": 640, "influences": 170,
    "replicas": 165, "resampling": 230, "comparison": 345, "selection": 345,
    "canvas": 160, "drawing": 460, "charts": 390,
}  # fmt: skip
LONGEST = 60
"""lines of a function of either"""


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
        if name in ("em", "loop", "queue"):
            assert not other.startswith("families.") or other == "families.base"
    opening = ast.get_docstring(tree)
    assert opening
    assert len(opening.splitlines()) <= 40


def lines(name):
    return len((PACKAGE / f"{name.replace('.', '/')}.py").read_text().splitlines())


def test_the_read_core_can_be_read():
    """Every file keeps its budget, and the read core stays below 2,600 lines."""
    budgets = READ_CORE | FAMILIES | ENGINE_ROOM
    assert {name: lines(name) for name in budgets if lines(name) > budgets[name]} == {}
    assert sum(lines(name) for name in READ_CORE) < 2600
    assert {name for name, floor in FLOORS.items() if floor <= FLOORS["queue"]} <= set(budgets)


def test_no_function_of_the_core_is_long():
    trees = dict(modules())
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name in READ_CORE | FAMILIES | ENGINE_ROOM
        for node in ast.walk(trees[name])
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > LONGEST
    }
    assert long == {}


def test_optimisation_knows_nothing_of_mixtures():
    trees = dict(modules())
    assert list(imports(trees["stopping"])) == []
    assert list(imports(trees["accelerate"])) == []


def third_party(nodes):
    """Distributions that are imported under `nodes`: neither of the standard library nor of this repository."""
    here = {"jaxem", "experiments", "tests", *sys.stdlib_module_names}
    names = set()
    for node in nodes:
        for found in ast.walk(node):
            if isinstance(found, ast.Import):
                names |= {alias.name.split(".")[0] for alias in found.names}
            elif isinstance(found, ast.ImportFrom) and found.module:
                names.add(found.module.split(".")[0])
    return {{"sklearn": "scikit-learn", "xdist": "pytest-xdist"}.get(name, name) for name in names - here}


def declared(*extras):
    """Distributions that pyproject.toml gives the core and `extras`, extras of extras included."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    found = set()
    for requirement in [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]:
        name, inner = re.match(r"([\w-]+)(?:\[(.*?)\])?", requirement).groups()
        found |= declared(*inner.split(",")) if name == "jaxem" else {name}
    return found


def test_what_is_imported_is_declared():
    """What a file of the core needs at once is a dependency; the rest is in an extra that says who needs it."""
    for name, tree in modules():
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        if name.split(".")[0] not in ("sklearn", "canvas", "cli"):
            assert third_party(at_once) <= declared(), name
        assert third_party([tree]) <= declared("cli", "plot", "sklearn", "dask"), name
    for folder, extras in {"experiments": ("experiments", "bench"), "tests": ("test",)}.items():
        for path in (PACKAGE.parent / folder).glob("*.py"):
            assert third_party([ast.parse(path.read_text())]) <= declared(*extras), path.name


def test_public_names_are_documented():
    for name in jaxem.__all__:
        value = getattr(jaxem, name)
        if name != "__version__":
            assert inspect.getdoc(value), name
    assert set(jaxem.__all__) <= set(dir(jaxem))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        jaxem.nonsense  # type: ignore[attr-defined]  # noqa: B018


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
for extra in "typer rich pyarrow pydantic platformdirs matplotlib sklearn dask pandas polars pytest hypothesis".split():
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
    (lambda: found.plot(x), "jaxem[plot]"),
    (lambda: jaxem.from_dask(x), "jaxem[dask]"),
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
