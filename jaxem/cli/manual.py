"""How the help reads, and what the shell completes: paragraphs that wrap, flags without a type, examples, exit codes.

Nothing here imports JAX: a shell asks for completions at every press of the tab key.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import typer.core

from jaxem.names import FAMILY_NAMES, FORMS

EXIT_CODES = (
    "Exit codes: 0 done, also if a fit did not converge, which it says; 1 the data, the model or the fit failed; 2 wrong usage; "
    "130 interrupted (Ctrl-C); 143 terminated. Results go to stdout, notes and the one line of an error to stderr."
)
EXAMPLES = {
    "fit": (
        "jaxem fit people.csv -k 3 --out people.safetensors",
        "jaxem fit people.csv -k 1:6 --covariance all",
        "jaxem fit people.csv --columns height,weight --na=-999 --missing",
        "jaxem fit people.csv --json | jq .bic",
    ),
    "test": ("jaxem test people.csv -k 2 --against 3",),
    "predict": ("jaxem predict people.safetensors people.csv --append --out labelled.csv",),
    "score": ("jaxem score people.safetensors people.csv",),
    "sample": ("jaxem sample people.safetensors -n 1000 --out drawn.csv",),
    "verify": ("jaxem verify people.safetensors people.csv",),
    "compare": (
        "jaxem compare two.safetensors three.safetensors people.csv",
        "jaxem compare a.safetensors b.safetensors",
    ),
    "convert": ("jaxem convert people.safetensors people.json", "jaxem convert people.json people.safetensors"),
}


class Command(typer.core.TyperCommand):
    """A command whose help is wrapped by paragraphs, and ends with examples."""

    def __init__(self, name: str | None, **options: Any) -> None:
        options["help"] = _wrapped(options.get("help") or "")
        examples = EXAMPLES.get(name or "", ())
        options["epilog"] = (
            "\n\n".join(["Example:" if len(examples) == 1 else "Examples:", *examples]) if examples else None
        )
        super().__init__(name, **options)

    def get_params(self, ctx: Any) -> list[Any]:
        """The options, of which flags have no type."""
        return _without_types(super().get_params(ctx))


class Program(typer.core.TyperGroup):
    """The program itself, whose flags have no type."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options, of which flags have no type."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def _wrapped(text: str) -> str:
    """Paragraphs of one line each."""
    return "\n\n".join(re.sub(r"\s*\n\s*", " ", part) for part in inspect.cleandoc(text).split("\n\n"))


def completes(*words: str, after: Sequence[str] = (",",)) -> Callable[[str], list[str]]:
    """Completes one of these words, also the last of several that stand with one of the marks `after` between them."""

    def complete(incomplete: str) -> list[str]:
        begin = max([incomplete.rfind(mark) for mark in after], default=-1) + 1
        return [incomplete[:begin] + word for word in words if word.startswith(incomplete[begin:].lower())]

    return complete


COVARIANCES = ("full", "tied", "diag", "spherical", "all", "mclust", *(form.lower() for form in FORMS))
"""what --covariance completes"""
KINDS = (*COVARIANCES, *(name for name in FAMILY_NAMES if "-" in name), "poisson", "categorical", "bernoulli")
"""what --family completes"""
