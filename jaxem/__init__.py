"""jaxem: expectation-maximisation in JAX.

Read `jaxem.em` first. Names below are imported when first used, so that `import jaxem` costs nothing and the command
line answers `--help` without JAX.
"""

import importlib
import warnings
from typing import Any

__version__ = "0.5.0"

_HOME = {
    "Family": "families.base",
    "Spherical": "families.gaussian",
    "Diagonal": "families.gaussian",
    "Tied": "families.gaussian",
    "Full": "families.gaussian",
    "GaussianParams": "families.gaussian",
    "Bernoulli": "families.discrete",
    "BernoulliParams": "families.discrete",
    "Beta": "priors",
    "Prior": "priors",
    "Dirichlet": "priors",
    "NormalInverseWishart": "priors",
    "chen_tan": "priors",
    "fraley_raftery": "priors",
    "variance_floor": "priors",
    "Mixture": "mixture",
    "shard": "rows",
    "Stats": "stats",
    "e_step": "em",
    "m_step": "em",
    "objective": "em",
    "proxy": "em",
    "elbo": "em",
    "Status": "stopping",
    "Progress": "stopping",
    "GainBelow": "stopping",
    "StepBelow": "stopping",
    "RemainingGainBelow": "stopping",
    "AitkenBelow": "stopping",
    "RelativeGainBelow": "stopping",
    "TotalGainBelow": "stopping",
    "squarem": "accelerate",
    "anderson": "accelerate",
    "hybrid": "accelerate",
    "Result": "loop",
    "State": "loop",
    "advance": "loop",
    "fit": "loop",
    "RandomParameters": "init",
    "RandomPoints": "init",
    "KMeans": "init",
    "KMeansPlusPlus": "init",
    "FromResponsibilities": "init",
    "FromMixture": "init",
    "RestartsProgress": "restarts",
    "starts": "restarts",
    "fit_restarts": "restarts",
    "best": "restarts",
    "landscape": "restarts",
    "Landscape": "restarts",
    "search": "racing",
    "Search": "racing",
    "SearchProgress": "racing",
    "select": "racing",
    "Selection": "racing",
    "Candidate": "racing",
    "verify": "laws",
    "Report": "laws",
}
_RENAMED = {
    "Lanes": ("restarts", "RestartsProgress", "use jaxem.RestartsProgress"),
    "Raced": ("racing", "SearchProgress", "use jaxem.SearchProgress"),
    "Settings": ("init", "Recipe", "use an initialiser such as jaxem.KMeansPlusPlus, or a value of jaxem.racing.ARMS"),
}
"""names of the version before: module, name and remedy; they work with a warning until the next version"""
_MODULES = (
    "accelerate",
    "compiling",
    "datasets",
    "display",
    "em",
    "families",
    "html",
    "init",
    "io",
    "laws",
    "loop",
    "mixture",
    "plots",
    "priors",
    "racing",
    "restarts",
    "rows",
    "sklearn",
    "stats",
    "stopping",
)

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"jaxem.{_HOME[name]}"), name)
    elif name in _RENAMED:
        module, new, remedy = _RENAMED[name]
        warnings.warn(f"jaxem.{name} will go in the next version; {remedy}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(f"jaxem.{module}"), new)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxem.{name}")
    else:
        raise AttributeError(f"module 'jaxem' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
