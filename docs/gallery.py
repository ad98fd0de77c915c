"""The gallery: before the site is built, a page for each experiment, from its docstring, its findings, its figures and its code.

Nothing is written by hand: the findings are those of experiments.md.
"""

import ast
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
EXPERIMENTS = DOCS.parent / "experiments"
FIGURES = EXPERIMENTS / "figures"
PAGES = DOCS / "gallery"
FINDING = re.compile(r"(?m)^\| `python -m experiments\.(\w+) [^`]*`[^|]* \| (.*) \|$")


def figures_of(name: str, names: list[str]) -> list[str]:
    """The figures of an experiment: those that begin with its name, and not with a longer one."""
    return sorted(
        path.stem
        for path in FIGURES.glob(f"{name}*.png")
        if max((other for other in names if path.stem.startswith(other)), key=len) == name
    )


def page(name: str, finding: str, figures: list[str]) -> str:
    """The text of one page."""
    opening = ast.get_docstring(ast.parse((EXPERIMENTS / f"{name}.py").read_text())) or ""
    finding = re.sub(r" \((?:\[[^\]]*\]|figures of)[^()]*(?:\([^()]*\)[^()]*)*\)", "", finding)  # links to the figures
    finding = re.sub(r"\]\((?!\w+:)([\w-]+\.md)", r"](../\1", finding)
    pictures = "\n\n".join(
        f"![{figure.replace('_', ' ')}](../../experiments/figures/{figure}.png)" for figure in figures
    )
    return f"""# {name.replace("_", " ").capitalize()}

{finding}

{pictures}

    python -m experiments.{name} configs/{name}.toml

## What is measured, and how

{opening}

## The settings

```{{literalinclude}} ../../configs/{name}.toml
:language: toml
```

## The code

```{{literalinclude}} ../../experiments/{name}.py
:language: python
```
"""


def write(app: Any) -> None:
    """Write the pages, and the one that lists them."""
    findings = dict(FINDING.findall((DOCS / "experiments.md").read_text()))
    names = [path.stem for path in sorted(EXPERIMENTS.glob("*.py")) if path.stem in findings]
    PAGES.mkdir(exist_ok=True)
    figures = {name: figures_of(name, names) for name in names}
    shown = [name for name in names if figures[name]]
    cards = [
        f":::{{grid-item-card}} {name.replace('_', ' ').capitalize()}\n:link: {name}\n:link-type: doc\n"
        f":img-bottom: ../../experiments/figures/{figures[name][0]}.png\n:::\n"
        for name in shown
    ]
    listed = "\n".join(shown)
    index = f"""# Gallery

What the experiments found, in pictures; each has a page with its findings and its code. All are made by
`python -m experiments.NAME configs/NAME.toml`.

::::{{grid}} 1 2 2 3
:gutter: 3

{"".join(cards)}
::::

```{{toctree}}
:hidden:

{listed}
```
"""
    for path, text in {"index": index, **{name: page(name, findings[name], figures[name]) for name in shown}}.items():
        target = PAGES / f"{path}.md"
        if not target.exists() or target.read_text() != text:  # a page that has not changed is not read again
            target.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
