"""jaxem: expectation-maximisation in JAX.

Read `jaxem.em` first. Names below are imported when first used, so that `import jaxem` costs nothing and the command
line answers `--help` without JAX.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # type checkers and editors cannot follow `__getattr__`
    from jaxem import accelerate as accelerate
    from jaxem import atomic as atomic
    from jaxem import checks as checks
    from jaxem import collapse as collapse
    from jaxem import columns as columns
    from jaxem import comparison as comparison
    from jaxem import criteria as criteria
    from jaxem import curvature as curvature
    from jaxem import datasets as datasets
    from jaxem import dependence as dependence
    from jaxem import devices as devices
    from jaxem import display as display
    from jaxem import distances as distances
    from jaxem import divergence as divergence
    from jaxem import em as em
    from jaxem import estimator as estimator
    from jaxem import exchange as exchange
    from jaxem import families as families
    from jaxem import files as files
    from jaxem import html as html
    from jaxem import implicit as implicit
    from jaxem import inference as inference
    from jaxem import influences as influences
    from jaxem import init as init
    from jaxem import io as io
    from jaxem import journal as journal
    from jaxem import lanes as lanes
    from jaxem import laws as laws
    from jaxem import layout as layout
    from jaxem import linalg as linalg
    from jaxem import loop as loop
    from jaxem import mixture as mixture
    from jaxem import moments as moments
    from jaxem import names as names
    from jaxem import newton as newton
    from jaxem import online as online
    from jaxem import ordering as ordering
    from jaxem import partitions as partitions
    from jaxem import parts as parts
    from jaxem import penalties as penalties
    from jaxem import plots as plots
    from jaxem import primitives as primitives
    from jaxem import priors as priors
    from jaxem import processes as processes
    from jaxem import program as program
    from jaxem import progress as progress
    from jaxem import queue as queue
    from jaxem import racing as racing
    from jaxem import reasons as reasons
    from jaxem import recipes as recipes
    from jaxem import replicas as replicas
    from jaxem import resampling as resampling
    from jaxem import rotations as rotations
    from jaxem import rounds as rounds
    from jaxem import rows as rows
    from jaxem import saddles as saddles
    from jaxem import selection as selection
    from jaxem import sklearn as sklearn
    from jaxem import source as source
    from jaxem import standard as standard
    from jaxem import stats as stats
    from jaxem import stopping as stopping
    from jaxem import threads as threads
    from jaxem.accelerate import anderson as anderson
    from jaxem.accelerate import hybrid as hybrid
    from jaxem.accelerate import squarem as squarem
    from jaxem.collapse import collapse_of as collapse_of
    from jaxem.comparison import LikelihoodRatioTest as LikelihoodRatioTest
    from jaxem.comparison import likelihood_ratio_test as likelihood_ratio_test
    from jaxem.devices import shard as shard
    from jaxem.divergence import Divergence as Divergence
    from jaxem.divergence import kl_divergence as kl_divergence
    from jaxem.em import e_step as e_step
    from jaxem.em import elbo as elbo
    from jaxem.em import m_step as m_step
    from jaxem.em import objective as objective
    from jaxem.em import proxy as proxy
    from jaxem.families.algebra import Product as Product
    from jaxem.families.algebra import Union as Union
    from jaxem.families.base import Family as Family
    from jaxem.families.deconvolved import Deconvolved as Deconvolved
    from jaxem.families.deconvolved import with_noise as with_noise
    from jaxem.families.diagonal import Diagonal as Diagonal
    from jaxem.families.discrete import Bernoulli as Bernoulli
    from jaxem.families.discrete import BernoulliParams as BernoulliParams
    from jaxem.families.discrete import Categorical as Categorical
    from jaxem.families.discrete import CategoricalParams as CategoricalParams
    from jaxem.families.discrete import Poisson as Poisson
    from jaxem.families.discrete import PoissonParams as PoissonParams
    from jaxem.families.ellipsoidal import Ellipsoidal as Ellipsoidal
    from jaxem.families.ellipsoidal import EllipsoidalParams as EllipsoidalParams
    from jaxem.families.fixed import Labelled as Labelled
    from jaxem.families.fixed import LabelledParams as LabelledParams
    from jaxem.families.fixed import Uniform as Uniform
    from jaxem.families.fixed import UniformParams as UniformParams
    from jaxem.families.gaussian import GaussianParams as GaussianParams
    from jaxem.families.gaussian import Spherical as Spherical
    from jaxem.families.matrices import Full as Full
    from jaxem.families.movable import Movable as Movable
    from jaxem.families.numerical import Numerical as Numerical
    from jaxem.families.numerical import NumericalParams as NumericalParams
    from jaxem.families.regression import Regression as Regression
    from jaxem.families.regression import RegressionParams as RegressionParams
    from jaxem.families.student_t import StudentT as StudentT
    from jaxem.families.student_t import StudentTParams as StudentTParams
    from jaxem.families.tied import Tied as Tied
    from jaxem.families.tied import TiedDiagonal as TiedDiagonal
    from jaxem.families.tied import TiedSpherical as TiedSpherical
    from jaxem.files import Files as Files
    from jaxem.files import predict_to as predict_to
    from jaxem.inference import Parameters as Parameters
    from jaxem.inference import Summary as Summary
    from jaxem.inference import em_rate as em_rate
    from jaxem.inference import information as information
    from jaxem.inference import summary as summary
    from jaxem.influences import influence as influence
    from jaxem.influences import leave_one_out as leave_one_out
    from jaxem.influences import scores as scores
    from jaxem.init import FromMixture as FromMixture
    from jaxem.init import FromResponsibilities as FromResponsibilities
    from jaxem.init import KMeans as KMeans
    from jaxem.init import KMeansPlusPlus as KMeansPlusPlus
    from jaxem.init import RandomParameters as RandomParameters
    from jaxem.init import RandomPoints as RandomPoints
    from jaxem.laws import Report as Report
    from jaxem.laws import verify as verify
    from jaxem.loop import Result as Result
    from jaxem.loop import State as State
    from jaxem.loop import advance as advance
    from jaxem.loop import fit as fit
    from jaxem.mixture import Mixture as Mixture
    from jaxem.ordering import sorted_components as sorted_components
    from jaxem.partitions import from_dask as from_dask
    from jaxem.penalties import chen_tan as chen_tan
    from jaxem.penalties import fraley_raftery as fraley_raftery
    from jaxem.penalties import variance_floor as variance_floor
    from jaxem.priors import Beta as Beta
    from jaxem.priors import Dirichlet as Dirichlet
    from jaxem.priors import DirichletProbs as DirichletProbs
    from jaxem.priors import Gamma as Gamma
    from jaxem.priors import NormalInverseWishart as NormalInverseWishart
    from jaxem.priors import Prior as Prior
    from jaxem.processes import from_processes as from_processes
    from jaxem.progress import FitProgress as FitProgress
    from jaxem.queue import Landscape as Landscape
    from jaxem.queue import RestartsProgress as RestartsProgress
    from jaxem.queue import best as best
    from jaxem.queue import fit_restarts as fit_restarts
    from jaxem.queue import landscape as landscape
    from jaxem.queue import starts as starts
    from jaxem.racing import Search as Search
    from jaxem.racing import search as search
    from jaxem.reasons import Collapse as Collapse
    from jaxem.resampling import Bootstrap as Bootstrap
    from jaxem.resampling import BootstrapProgress as BootstrapProgress
    from jaxem.resampling import bootstrap as bootstrap
    from jaxem.rounds import SearchProgress as SearchProgress
    from jaxem.selection import Candidate as Candidate
    from jaxem.selection import Selection as Selection
    from jaxem.selection import select as select
    from jaxem.source import Source as Source
    from jaxem.stats import Stats as Stats
    from jaxem.stopping import AitkenBelow as AitkenBelow
    from jaxem.stopping import GainBelow as GainBelow
    from jaxem.stopping import Progress as Progress
    from jaxem.stopping import RelativeGainBelow as RelativeGainBelow
    from jaxem.stopping import RemainingGainBelow as RemainingGainBelow
    from jaxem.stopping import Status as Status
    from jaxem.stopping import StepBelow as StepBelow
    from jaxem.stopping import TotalGainBelow as TotalGainBelow
    from jaxem.threads import set_threads as set_threads

__version__ = "0.6.0"

_HOME = {
    "Family": "families.base",
    "Movable": "families.movable",
    "Spherical": "families.gaussian",
    "Diagonal": "families.diagonal",
    "Tied": "families.tied",
    "Full": "families.matrices",
    "TiedSpherical": "families.tied",
    "TiedDiagonal": "families.tied",
    "GaussianParams": "families.gaussian",
    "Ellipsoidal": "families.ellipsoidal",
    "EllipsoidalParams": "families.ellipsoidal",
    "Bernoulli": "families.discrete",
    "BernoulliParams": "families.discrete",
    "Categorical": "families.discrete",
    "CategoricalParams": "families.discrete",
    "Poisson": "families.discrete",
    "PoissonParams": "families.discrete",
    "StudentT": "families.student_t",
    "StudentTParams": "families.student_t",
    "Deconvolved": "families.deconvolved",
    "with_noise": "families.deconvolved",
    "Product": "families.algebra",
    "Union": "families.algebra",
    "Uniform": "families.fixed",
    "UniformParams": "families.fixed",
    "Labelled": "families.fixed",
    "LabelledParams": "families.fixed",
    "Regression": "families.regression",
    "RegressionParams": "families.regression",
    "Numerical": "families.numerical",
    "NumericalParams": "families.numerical",
    "Beta": "priors",
    "Prior": "priors",
    "Dirichlet": "priors",
    "DirichletProbs": "priors",
    "Gamma": "priors",
    "NormalInverseWishart": "priors",
    "chen_tan": "penalties",
    "fraley_raftery": "penalties",
    "variance_floor": "penalties",
    "Mixture": "mixture",
    "Divergence": "divergence",
    "kl_divergence": "divergence",
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
    "FitProgress": "progress",
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
    "SearchProgress": "rounds",
    "select": "selection",
    "Selection": "selection",
    "Candidate": "selection",
    "Bootstrap": "resampling",
    "BootstrapProgress": "resampling",
    "bootstrap": "resampling",
    "LikelihoodRatioTest": "comparison",
    "likelihood_ratio_test": "comparison",
    "sorted_components": "ordering",
    "Source": "source",
    "from_processes": "processes",
    "Files": "files",
    "predict_to": "files",
    "from_dask": "partitions",
    "set_threads": "threads",
    "collapse_of": "collapse",
    "Collapse": "reasons",
    "Parameters": "inference",
    "Summary": "inference",
    "em_rate": "inference",
    "influence": "influences",
    "information": "inference",
    "leave_one_out": "influences",
    "scores": "influences",
    "summary": "inference",
    "verify": "laws",
    "Report": "laws",
}
_RENAMED = {
    "Lanes": ("queue", "RestartsProgress", "use jaxem.RestartsProgress"),
    "Raced": ("rounds", "SearchProgress", "use jaxem.SearchProgress"),
    "restarts": ("queue", None, "use jaxem.queue"),
    "compiling": ("program", None, "use jaxem.program"),
    "Settings": (
        "recipes",
        "Recipe",
        "use an initialiser such as jaxem.KMeansPlusPlus, or a value of jaxem.rounds.ARMS",
    ),
}
"""names of the version before: module, name and remedy; they work with a warning until the next version"""
_MODULES = (
    "accelerate",
    "atomic",
    "checks",
    "collapse",
    "columns",
    "comparison",
    "criteria",
    "curvature",
    "datasets",
    "dependence",
    "devices",
    "display",
    "distances",
    "divergence",
    "em",
    "estimator",
    "exchange",
    "families",
    "files",
    "html",
    "implicit",
    "inference",
    "influences",
    "init",
    "io",
    "journal",
    "lanes",
    "laws",
    "layout",
    "linalg",
    "loop",
    "mixture",
    "moments",
    "names",
    "newton",
    "online",
    "ordering",
    "partitions",
    "parts",
    "penalties",
    "plots",
    "primitives",
    "priors",
    "processes",
    "program",
    "progress",
    "queue",
    "racing",
    "reasons",
    "recipes",
    "replicas",
    "resampling",
    "rotations",
    "rounds",
    "rows",
    "saddles",
    "selection",
    "sklearn",
    "source",
    "standard",
    "stats",
    "stopping",
    "threads",
)

__all__ = [*_HOME, "__version__"]


def _attribute(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"jaxem.{_HOME[name]}"), name)
    elif name in _RENAMED:
        module, new, remedy = _RENAMED[name]
        warnings.warn(f"jaxem.{name} will go in the next version; {remedy}", DeprecationWarning, stacklevel=2)
        home = importlib.import_module(f"jaxem.{module}")
        return home if new is None else getattr(home, new)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxem.{name}")
    else:
        raise AttributeError(f"module 'jaxem' has no attribute {name!r}")
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # so that type checkers call a misspelt name an error
    __getattr__ = _attribute


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
