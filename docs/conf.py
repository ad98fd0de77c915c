"""The site: `make -C docs html`, or `sphinx-build -W docs docs/_build/html`.

Every cell of every page runs when the site is built, and one that fails fails the build. What ran is kept and run again only
where the page or the source of jaxem has changed.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import jaxem  # noqa: E402


def digest() -> str:
    """The hash of the package's source: other code, other outputs."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "jaxem").rglob("*")):
        if path.suffix in (".py", ".html", ".js", ".css", ".csv"):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


project = "jaxem"
author = "the jaxem developers"
copyright = "the jaxem developers"
version = release = jaxem.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "gallery",
]
exclude_patterns = ["_build", "jupyter_execute"]
templates_path = ["_templates"]
nitpicky = False  # types such as Array have no page here

# pages and their cells
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(os.environ.get("JAXEM_DOCS_CACHE", ROOT / "docs/_build/cells")) / digest())
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_merge_streams = True
copybutton_exclude = ".linenos, .gp, .go"

# the reference: docstrings are Google's style, and a word in single backticks is code
default_role = "code"
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # docstrings give shapes; the source, a click away, gives types
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"jaxem {version}"
html_show_copyright = False


def file_names() -> dict[str, str]:
    """`jaxem.Search` and `jaxem.search` are one file name where case does not count: the class gets another."""
    names = jaxem.__all__
    twins = {name for name in names if name != name.lower() and name.lower() in names}
    return {f"jaxem.{name}": f"jaxem.{name}-class" for name in twins}


autosummary_filename_map = file_names()


def skip_noise(app: object, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Fields of a NamedTuple are described in its docstring; scikit-learn's routing of metadata has a page of its own there."""
    routing = name == "get_metadata_routing" or (name.startswith("set_") and name.endswith("_request"))
    return True if routing or (getattr(member, "__doc__", "") or "").startswith("Alias for field number") else None


def setup(app: Any) -> None:
    app.connect("autodoc-skip-member", skip_noise)
