"""Which kinds of component the command line fits: by name, from a module, with labels and a background.

A kind is a name, and a function that makes the family for a table: how many categories there are, or where a background
lies, only the table tells.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import typer

import jaxem
from jaxem.cli.terminal import UsageError
from jaxem.names import FAMILY_NAMES
from jaxem.names import FORMS as MCLUST

if TYPE_CHECKING:
    import numpy as np

    from jaxem.families.base import Family
    from jaxem.mixture import Mixture

FORMS = ("full", "tied", "diag", "spherical")
"""Gaussians by their covariances; `all` tries each"""
OTHERS = ("student-t", "poisson", "categorical", "bernoulli")
"""other kinds by name"""


class Kind(NamedTuple):
    """A kind of component by its name."""

    name: str
    make: Callable[[np.ndarray], Family]

    @property
    def described(self) -> str:
        """What the components of a fit are, in words."""
        return f"{self.name} components" if self.name in OTHERS or ":" in self.name else f"{self.name} covariances"


class Layers(NamedTuple):
    """What lies over the kinds of component: whether there are labels in the last column, and a background."""

    labels: bool = False
    background: bool = False

    def wrap(self, family: Family, values: np.ndarray) -> Family:
        """The family of a table `[n, d]`, whose last column has the labels if there are any."""
        import numpy as np

        d = values.shape[1] - self.labels
        if self.background:
            low, high = np.nanmin(values[:, :d], axis=0), np.nanmax(values[:, :d], axis=0)
            # a constant column has no box of its own
            wide = high + (high == low) * (1.0 + abs(high))
            family = jaxem.Union((family, None), (jaxem.Uniform(low, wide), 1))
        if self.labels:
            family = jaxem.Product((family, tuple(range(d))), (jaxem.Labelled(), (d,)))
        return family

    def counts(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """Numbers of components, of the background too."""
        return tuple(k + self.background for k in counts)

    def without_labels(self, mixture: Mixture) -> Mixture:
        """The mixture of the columns that new rows have."""
        if not self.labels:
            return mixture
        from jaxem.mixture import Mixture

        return Mixture(mixture.log_weights, mixture.components[0], mixture.family.families[0])  # type: ignore[attr-defined]


def kinds(covariance: str | None, family: str | None, missing: bool = False) -> tuple[Kind, ...]:
    """The kinds that --covariance or --family name, with `missing` of what was observed; nothing is imported yet."""
    if covariance is not None and family is not None:
        raise UsageError("--covariance and --family exclude each other; give one of the two")
    option, text = ("--family", family) if family is not None else ("--covariance", covariance or "full")
    several = {"all": FORMS, "mclust": tuple(form.lower() for form in MCLUST)}
    found: list[Kind] = []
    for name in (part.strip() for part in (text or "").split(",")):
        found += [_kind(one, option) for one in several.get(name.lower(), (name,))]
    if len({kind.name for kind in found}) < len(found):
        raise typer.BadParameter(f"{text!r} names a kind twice; give each once", param_hint=option)
    return tuple(Kind(kind.name, _that_misses(kind)) for kind in found) if missing else tuple(found)


def _that_misses(kind: Kind) -> Callable[[np.ndarray], Family]:
    """What makes the family to which a missing value was not observed; a UsageError if there is none."""

    def make(values: np.ndarray) -> Family:
        family = kind.make(values)
        if family.holes:
            return family
        if "missing" not in {field.name for field in dataclasses.fields(cast(Any, family))}:
            able = ", ".join((*FORMS, *OTHERS))
            raise UsageError(
                f"--missing: {kind.name} components need whole rows; choose from {able}, or --drop-missing"
            )
        return cast("Family", dataclasses.replace(cast(Any, family), missing=True))

    return make


def _kind(name: str, option: str) -> Kind:
    own, lower = option == "--family", name.lower()
    if ":" in name and own:
        return Kind(name, lambda _: from_module(name))
    if lower in OTHERS and not own:
        raise typer.BadParameter(f"{name!r} is no form of covariances; write --family {lower}", param_hint=option)
    if lower == "categorical":
        return Kind(lower, lambda values: jaxem.Categorical(max(2, int(_largest(values)) + 1)))
    if lower not in FAMILY_NAMES:
        known = [*FORMS, "all", *(OTHERS if own else ()), "mclust or its letters"]
        close = difflib.get_close_matches(lower, [*FAMILY_NAMES, *OTHERS], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}{hint}", param_hint=option)
    of_class, *arguments = FAMILY_NAMES[lower]
    short = {"diagonal": "diag"}.get(lower, lower)
    return Kind(short, lambda _: getattr(jaxem, of_class)(*arguments))


def _largest(values: np.ndarray) -> float:
    import numpy as np

    return float(np.nanmax(values))


def from_module(name: str) -> Family:
    """A family of the user's own: `module:Class`, or `module:value`, found where Python starts too."""
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise UsageError(f"--family {name}: {error}; give module:Class, of a module that Python can import") from error
    except AttributeError as error:
        raise UsageError(f"--family {name}: {module_name} has no {attribute!r}; give a name that it defines") from error
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise UsageError(f"--family {name}: {error}; name a value with its settings instead") from error
    from jaxem.families.base import Family
    from jaxem.io import register

    if not isinstance(found, Family):
        raise UsageError(f"--family {name} is no jaxem.Family, but a {type(found).__name__}; give a class of families")
    register(found, name)
    return found
