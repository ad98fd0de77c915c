"""jaxem: expectation-maximisation in JAX.

Read `jaxem.em` first. Names below are imported when first used, so that `import jaxem` costs nothing and the command
line answers `--help` without JAX.
"""

import importlib
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
    "shard": "devices",
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
    "RestartsProgress": "queue",
    "starts": "queue",
    "fit_restarts": "queue",
    "best": "queue",
    "landscape": "queue",
    "Landscape": "queue",
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
    "Lanes": "RestartsProgress",
    "Raced": "SearchProgress",
    "compiling": "program",
    "restarts": "queue",
}
"""names of 0.5 and the new ones; the old name warns until 0.7"""
_MODULES = (
    "accelerate",
    "checks",
    "datasets",
    "devices",
    "em",
    "families",
    "html",
    "init",
    "io",
    "laws",
    "linalg",
    "loop",
    "mixture",
    "moments",
    "plots",
    "primitives",
    "priors",
    "program",
    "queue",
    "racing",
    "rows",
    "sklearn",
    "stats",
    "stopping",
)

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _RENAMED or name == "Settings":
        import warnings

        new = _RENAMED.get(name, "init.Recipe")
        warnings.warn(f"jaxem.{name} is now jaxem.{new}; use that name", DeprecationWarning, stacklevel=2)
        return __getattr__(new) if name in _RENAMED else importlib.import_module("jaxem.init").Recipe
    if name in _HOME:
        value = getattr(importlib.import_module(f"jaxem.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxem.{name}")
    else:
        raise AttributeError(f"module 'jaxem' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
