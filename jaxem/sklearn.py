"""scikit-learn's GaussianMixture, by jaxem: the same parameters, attributes, starts and answers, from precise arithmetic.

From one `random_state` the starts are scikit-learn's own, and so is the schedule of its loop, theta_t = M(theta_{t-1}):

    lower_bounds_[t-1] = l(theta_{t-1}) / n,  stop if |lower_bounds_[t-1] - lower_bounds_[t-2]| < tol,  give theta_t,

where `reg_covar` is added to the variances by every M-step, which then maximises

    l-hat(theta) - reg_covar / 2  sum_j counts_j tr(inv(Sigma_j))        (for Tied with its one Sigma).

So after n_iter_ steps the parameters agree with scikit-learn's to rounding, where scikit-learn's are right: here moments
are never raw, rows of integers are computed as float64, a component without rows stands at the mean of the data with
their covariance and weight 0, a restart that collapses ends alone, and a fit that fails leaves the old model whole.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

try:
    from sklearn.base import _fit_context
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning, NotFittedError
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.validation import check_is_fitted
except ModuleNotFoundError as error:  # the extra is missing
    raise ModuleNotFoundError(
        f"{error.name} is not installed; jaxem.sklearn needs: pip install 'jaxem[sklearn]'", name=error.name
    ) from error

from jaxem.estimator import (
    FLOATS,
    Batches,
    Estimator,
    LostRowError,
    as_n_samples,
    checked_sample_weight,
    in_parameters,
    shares_of_weight,
)
from jaxem.estimator import MixtureModel as MixtureModel
from jaxem.families.diagonal import Diagonal
from jaxem.families.gaussian import (
    Gaussian,
    GaussianParams,
    GaussianStats,
    Spherical,
)
from jaxem.families.matrices import Full
from jaxem.families.tied import Tied
from jaxem.held import as_start, values_of
from jaxem.holding import restore
from jaxem.holes import moments_of_observed
from jaxem.lanes import Queue, Settings, lane_count, run_through
from jaxem.mixture import Mixture
from jaxem.moments import CHUNK
from jaxem.online import DECAY, OFFSET
from jaxem.priors import Prior
from jaxem.racing import default_budget, search
from jaxem.rows import Rows, as_rows
from jaxem.stats import Stats
from jaxem.stopping import Progress, Status

INITS = {"weights": "weights_init", "means": "means_init", "covariances": "precisions_init"}
"""what can be held, and the parameter that has its values"""
FORMS: dict[str, Gaussian] = {"full": Full(), "tied": Tied(), "diag": Diagonal(), "spherical": Spherical()}
"""covariance_type and the family it names"""
LEAST_TRACE, MOST_TRACE = 2**7, 2**20
"""turns that a trace holds at least, so that most fits share a program; and at most, beyond which no climb goes"""
MOST_TRACES = 2**24
"""numbers in all traces of one queue, above which restarts climb in several queues"""
FAINT = 1e-20
"""count below which a component has no rows, and the weight of the row that then moves its mean"""
NOTICEABLE = 0.01
"""share of a feature's variance from which `reg_covar` is warned of"""
ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance caused "
    "by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or scale the input "
    "data."
)
PARAMETERS = {
    "lower the number of components": "decrease n_components",
    "start elsewhere": "change random_state",
    "use Diagonal() or Spherical()": "set covariance_type='diag' or 'spherical'",
    "use Diagonal()": "set covariance_type='diag'",
    "use a simpler family of covariances": "choose a simpler covariance_type",
    "give a prior such as jaxem.chen_tan(x)": "use reg_covar with another init_params",
}
"""what `Collapse.remedy` says, and what to say of this class instead"""
IN_SINGLE = " The numerical accuracy can also be improved by passing float64 data instead of float32."
NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, or check "
    "for degenerate data."
)


class GaussianMixture(Estimator):
    """A Gaussian mixture with the interface of `sklearn.mixture.GaussianMixture`, fitted by jaxem.

    Parameters and defaults are scikit-learn's; the last five, and "search", are jaxem's own.

    Parameters:
        n_components: number of components, k.
        covariance_type: "full", "tied", "diag" or "spherical".
        tol: a climb ends where the lower bound, the mean log density of a row, rises by less than this.
        reg_covar: added to the variances, so that they stay positive; in the units of X squared.
        max_iter: turns of EM at most.
        n_init: starts to climb from; the best end is kept.
        init_params: "kmeans", "k-means++", "random", "random_from_data" as there; "search" for `jaxem.search`, which races
            starts of several kinds with `n_init` times its default budget, climbs the likelihood itself until 1e-8 nats
            are left to gain, and uses neither `reg_covar` nor `tol` nor `max_iter`; responsibilities `[n, k]`; or a
            function of (X, n_components, random_state) that gives them.
        weights_init: weights to start from, `[k]`, in place of those of `init_params`.
        means_init: means to start from, `[k, d]`.
        precisions_init: inverses of the covariances to start from, in the shape that `covariance_type` has.
        random_state: a seed, a `numpy.random.RandomState`, or None for another start each time.
        warm_start: whether `fit` goes on from the fit before.
        verbose: 1 prints each start and every `verbose_interval`-th turn, 2 also times and changes of the bound.
        verbose_interval: turns between two lines.
        held: parameters that stay as they are: "weights", "means" and "covariances", of all components (True) or of some (a bool
            for each), at the values of `weights_init`, `means_init` and `precisions_init`; or the values themselves, NaN where
            free. {"weights": True} alone is equal proportions. `reg_covar` leaves held covariances as they are. docs/held.md.
        chunk_size: rows worked on at a time; computed from the shapes by default.
        learning_decay, learning_offset: of `partial_fit` without labels: how fast old batches fade, above 1/2 and at most 1;
            and by how many batches the count of batches is put forward.
        missing: whether NaN in X is a value that was not observed: the likelihood is that of what was, exactly. Starts take the
            mean of its column for it. Then `partial_fit` cannot be used.

    Attributes are scikit-learn's, and

    Attributes:
        restart_lower_bounds_: `[n_init]`, the last lower bound of each restart; NaN for one that had none.
        restart_statuses_: the name of the `jaxem.Status` that each restart ended in.
        mixture_: the fitted `jaxem.Mixture`, to be saved by `jaxem.io.save` or used in a larger program.

    `fit`, `fit_predict` and `score` take `sample_weight` `[n]`: a row of weight 0 is absent, one of weight 2 stands for two.

    Example:
        >>> import jaxem.datasets
        >>> from jaxem.sklearn import GaussianMixture
        >>> model = GaussianMixture(2, random_state=0).fit(jaxem.datasets.faithful())
        >>> print(model.weights_.round(2), model.converged_)
        [0.36 0.64] True
    """

    lower_bound_: float
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(FORMS))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [
            StrOptions({"kmeans", "random", "random_from_data", "k-means++", "search"}),
            callable,
            "array-like",
        ],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "held": "no_validation",
        "chunk_size": [Interval(Integral, 1, None, closed="left"), None],
        "learning_decay": [Interval(Real, 0.5, 1.0, closed="right")],
        "learning_offset": [Interval(Real, 0.0, None, closed="left")],
        "missing": ["boolean"],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Any = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        held: Mapping[str, Any] | None = None,
        chunk_size: int | None = None,
        learning_decay: float = DECAY,
        learning_offset: float = OFFSET,
        missing: bool = False,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.held = held
        self.chunk_size = chunk_size
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.missing = missing

    @classmethod
    def from_parameters(
        cls, weights: Any, means: Any, covariances: Any, covariance_type: str = "full"
    ) -> "GaussianMixture":
        """A fitted model with these parameters, shaped as the attributes are.

        Raises:
            ValueError: naming the parameter, if they belong to no mixture.
        """
        if not isinstance(covariance_type, str) or covariance_type not in FORMS:
            raise ValueError(f"covariance_type = {covariance_type!r}; choose from {', '.join(FORMS)}")
        means = check_array(means, dtype=FLOATS, input_name="means")
        k, d = means.shape
        weights = _checked_weights(weights, k)
        family = FORMS[covariance_type]
        covariances = _checked_matrices(covariances, covariance_type, k, d, "covariance")
        if family.by_matrices:
            deviations = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
            apart = np.abs(covariances - np.swapaxes(covariances, -1, -2))
            if np.any(apart > 1e-5 * deviations[..., :, None] * deviations[..., None, :]):
                raise ValueError(f"'{covariance_type} covariance' should be symmetric, positive-definite")
            covariances = 0.5 * (covariances + np.swapaxes(covariances, -1, -2))
        dtype = np.result_type(weights, means, covariances)
        model = cls(k, covariance_type=covariance_type)
        model.n_features_in_ = d
        model._set(Parameters(*(leaf.astype(dtype) for leaf in (weights, means, covariances))), family)
        model.converged_, model.n_iter_, model.lower_bound_, model.lower_bounds_ = True, 0, -math.inf, []
        return model

    @classmethod
    def from_mixture(cls, mixture: Mixture) -> "GaussianMixture":
        """A fitted model with the parameters of a `jaxem.Mixture` of Gaussians, such as `jaxem.io.load` gives."""
        missing = mixture.family.missing if isinstance(mixture.family, Gaussian) else False
        names = [name for name, family in FORMS.items() if _that_misses(family, missing) == mixture.family]
        if not names:
            raise ValueError(f"mixture has family {mixture.family!r}; give one of {[*FORMS.values()]}")
        means, covariances = (np.asarray(leaf) for leaf in mixture.components)
        weights = np.exp(np.asarray(mixture.log_weights, np.float64))
        model = cls.from_parameters(weights.astype(means.dtype), means, covariances, names[0])
        model.missing = missing
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = bool(self.missing)
        return tags

    # -- fitting ------------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, X: Any, sample_weight: Any) -> None:  # noqa: N803
        x = self._as_rows(X, reset=True)
        weight = None if sample_weight is None else _scaled(sample_weight, x)
        self._check_rows(x, weight)
        warm = self.warm_start and self._is_started()
        given, searching = self._given(x.dtype, x.shape[1]), self._searches() and not warm
        if warm:
            self._check_warm_start(x.shape[1])
        if searching:
            _check_none(self._not_held(given))
        complete = _complete(x, weight) if self.missing else x
        _check_scale(complete, weight, 0.0 if searching else self.reg_covar)
        random_state = check_random_state(self.random_state)
        with self._float_scope(x.dtype):
            held = self._holding(given, x)
            if searching:
                found = self._search(x, weight, random_state, held)
            else:
                rows = as_rows(self._family, x, weight, self.n_components, chunk_size=self.chunk_size)
                starts = (
                    [self._parameters().astype(x.dtype)]
                    if warm
                    else self._starts(complete, weight, given, random_state)
                )
                found = self._climb(starts, rows, float(self.lower_bound_) if warm else -math.inf, held)
            found = found._replace(parameters=held.written(found.parameters))
        if not found.converged and (self.max_iter > 0 or found.warning):
            warnings.warn(found.warning or NOT_CONVERGED, ConvergenceWarning, stacklevel=4)
        self._set(found.parameters, self._family)
        self._held = held.static
        self.converged_ = found.converged
        self.n_iter_ = len(found.bounds)
        self.lower_bound_ = found.bounds[-1] if found.bounds else -math.inf
        self.lower_bounds_ = found.bounds
        self.restart_lower_bounds_ = found.last_bounds
        self.restart_statuses_ = found.statuses

    # -- batches ------------------------------------------------------------------------------------------------------

    def _is_started(self) -> bool:
        return hasattr(self, "converged_")

    def _asked_for(self) -> tuple[Gaussian, int]:
        return self._family, self.n_components

    def _begin(self, x: np.ndarray, weight: np.ndarray | None) -> tuple[Mixture, Prior | None]:
        scaled = None if weight is None else shares_of_weight(weight).astype(x.dtype)
        if self._is_started():
            self._check_warm_start(x.shape[1], "partial_fit", "make a new model")
            found = [self._parameters().astype(x.dtype)]
            _check_scale(x, scaled, self.reg_covar)
        else:
            found = self._first_starts(x, scaled)
        rows = as_rows(self._family, x, weight, self.n_components)
        sound = [one for one in found if _are_proper(one.covariances, self._family)]
        if not sound:
            raise ValueError(_ill_defined(x.dtype))
        sound = [one._replace(weights=one.weights / one.weights.sum()) for one in sound]
        held = self._holding(self._given(x.dtype, x.shape[1]), x)
        start = self._best_start([held.start(one.as_mixture(self._family)) for one in sound], x, weight)
        return start, _RegCovar.of(self.reg_covar, rows, self._family)

    def _first_starts(self, x: np.ndarray, weight: np.ndarray | None) -> list["Parameters"]:
        """The starts that a first batch gives."""
        self._check_rows(x, weight)
        given, random_state = self._given(x.dtype, x.shape[1]), check_random_state(self.random_state)
        _check_scale(x, weight, self.reg_covar)
        if not self._searches():
            return self._starts(x, weight, given, random_state)
        _check_none(self._not_held(given))
        return [self._search(x, weight, random_state, self._holding(given, x)).parameters]

    def _prior_of(self, known: Batches) -> Prior | None:
        reg_covar = jnp.asarray(self.reg_covar, known.state.weight.dtype)
        return dataclasses.replace(cast("_RegCovar", known.prior), reg_covar=reg_covar)

    def _set_after_batch(self, mixture: Mixture, known: Batches) -> None:
        self._set(Parameters.of(mixture), self._family)
        self._held = mixture.held
        self.converged_, self.n_iter_ = known.converged, len(known.bounds)
        self.lower_bound_, self.lower_bounds_ = known.bounds[-1], known.bounds
        self.restart_lower_bounds_ = np.array(known.bounds[-1:])
        self.restart_statuses_ = (("CONVERGED" if known.converged else "RUNNING"),)

    # -- what is held -------------------------------------------------------------------------------------------------

    def _holding(self, given: "Given", x: np.ndarray) -> "Fixed":
        """The values of what is held."""
        k, d = self.n_components, x.shape[1]
        if not isinstance(self.held, Mapping):
            return Fixed(values_of(self._family, k, d, x.dtype, self.held), None, np.ones(d))
        own = dict(self.held)
        covariances = None if given.precisions is None else _inverse(given.precisions, self._family)
        for name, init in zip(INITS, (given.weights, given.means, covariances), strict=True):
            value = np.asarray(own.get(name, False))
            axes = () if name == "covariances" and self._family.shared else (k,)
            if value.dtype.kind != "b" or not value.any() or value.shape not in ((), axes):
                continue
            if init is not None:
                mask = np.broadcast_to(value, axes)
                own[name] = np.where(mask.reshape(*axes, *(1,) * (np.ndim(init) - len(axes))), init, np.nan)
            elif name != "weights":
                raise ValueError(
                    f"held['{name}'] = {own[name]!r}, but {INITS[name]} is None; give it, or the values in held, NaN where free"
                )
        values, weights = values_of(self._family, k, d, x.dtype, own), own.get("weights", False)
        if np.asarray(weights).dtype.kind == "b":
            weights = np.where(np.broadcast_to(weights, k), 1.0 / k, np.nan)
        return Fixed(values, weights, np.var(x, axis=0))

    def _not_held(self, given: "Given") -> "Given":
        """What is given for starts, without the values of what is held."""
        names = self.held if isinstance(self.held, Mapping) else {}
        return Given(*(None if name in names else one for name, one in zip(INITS, given, strict=True)))

    # -- starts -------------------------------------------------------------------------------------------------------

    def _searches(self) -> bool:
        return isinstance(self.init_params, str) and self.init_params == "search"

    def _check_rows(self, x: np.ndarray, weight: np.ndarray | None) -> None:
        """Whether there are enough rows to draw a start from."""
        if len(x) < self.n_components:
            raise ValueError(
                "Expected n_samples >= n_components "
                f"but got n_components = {self.n_components}, n_samples = {len(x)}"
            )  # fmt: skip
        if weight is not None and np.count_nonzero(weight) < self.n_components:
            raise ValueError(
                f"sample_weight is positive for {np.count_nonzero(weight)} rows, fewer than n_components = {self.n_components}"
            )

    def _check_warm_start(self, d: int, what: str = "warm_start", remedy: str = "set warm_start=False") -> None:
        """Whether the fitted parameters are a start for data of d features."""
        k = self.n_components
        shape = self._family.covariance_shape(k, d)
        found = np.shape(self.weights_), np.shape(self.means_), np.shape(self.precisions_cholesky_)
        if found != ((k,), (k, d), shape):
            raise ValueError(
                f"{what} goes on from means_ of shape {found[1]} and covariances of shape {found[2]}, but "
                f"{k} components of covariance_type {self.covariance_type!r} and {d} features were asked for; {remedy} "
                "to start anew"
            )

    def _given(self, dtype: Any, d: int) -> "Given":
        """The user's `*_init`, checked."""
        k = self.n_components
        weights = means = precisions = None
        if self.weights_init is not None:
            weights = _cast(_checked_weights(self.weights_init, k), dtype, "weights_init")
        if self.means_init is not None:
            means = check_array(
                _unmasked(self.means_init, "means_init"), dtype=FLOATS, ensure_2d=False, input_name="means_init"
            )
            _check_shape(means, (k, d), "means")
            means = _cast(means, dtype, "means_init")
        if self.precisions_init is not None:
            matrices = _checked_matrices(self.precisions_init, self.covariance_type, k, d, "precision")
            precisions = _cast(matrices, dtype, "precisions_init")
        return Given(weights, means, precisions)

    def _starts(
        self, x: np.ndarray, weight: np.ndarray | None, given: "Given", random_state: np.random.RandomState
    ) -> list["Parameters"]:
        """Where the restarts begin: what is given, the rest from responsibilities.

        As in scikit-learn the weights are counts over n, which do not sum to one if a start uses few rows only: that shifts
        the first lower bound.
        """
        if all(one is not None for one in given):
            one = Parameters(given.weights, given.means, _inverse(given.precisions, self._family))
            return [one.astype(x.dtype)] * self.n_init
        fixed = not isinstance(self.init_params, str) and not callable(self.init_params)
        starts = []
        for _ in range(1 if fixed else self.n_init):
            resp = self._responsibilities(x, weight, random_state)
            if weight is not None:
                resp = resp * weight[:, None]
            total = len(x) if weight is None else float(weight.sum(dtype=np.float64))
            one = _m_step_of(x, resp, total, self._family, self.reg_covar)
            starts.append(one.overridden(given, self._family))
        return starts

    def _responsibilities(
        self, x: np.ndarray, weight: np.ndarray | None, random_state: np.random.RandomState
    ) -> np.ndarray:
        """A start's responsibilities `[n, k]`, drawn as scikit-learn draws them."""
        (n, _), k, kind = x.shape, self.n_components, self.init_params
        if not isinstance(kind, str):
            resp = kind(x.copy(), k, random_state) if callable(kind) else kind
            if hasattr(resp, "shape"):  # before scikit-learn prints the whole array
                _check_shape(resp, (n, k), "init_params")
            resp = check_array(resp, dtype=FLOATS, ensure_2d=False, input_name="init_params")
            _check_shape(resp, (n, k), "init_params")
            if resp.min() < 0 or not np.all(resp.sum(axis=1) > 0):
                raise ValueError("init_params gave responsibilities below zero or a row of zeros; give shares `[n, k]`")
            return resp / resp.sum(axis=1, keepdims=True)
        if kind == "random":
            resp = random_state.uniform(size=(n, k)).astype(x.dtype)
            return resp / resp.sum(axis=1, keepdims=True)
        resp = np.zeros((n, k), x.dtype)
        if kind == "kmeans":
            labels = KMeans(k, n_init=1, random_state=random_state).fit(x, sample_weight=weight).labels_
            resp[np.arange(n), labels] = 1
            return resp
        if kind == "k-means++":
            rows = kmeans_plusplus(x, k, sample_weight=weight, random_state=random_state)[1]
        else:
            p = (
                None
                if weight is None or np.all(weight == weight[0])
                else weight.astype(np.float64) / weight.sum(dtype=np.float64)
            )
            rows = random_state.choice(n, size=k, replace=False, p=p)
        resp[rows, np.arange(k)] = 1
        if weight is not None:  # the row itself is the start, whatever it weighs
            resp[rows] /= np.where(weight[rows] > 0, weight[rows], 1)[:, None]
        return resp

    def _climb(self, starts: list["Parameters"], rows: Rows, previous: float, held: "Fixed") -> "Found":
        """EM from each start; `previous` is the bound of the fit that a warm start goes on from."""
        dtype = rows.blocks.dtype
        proper = np.array([_are_proper(start.covariances, self._family) for start in starts])
        if not proper.any():
            raise ValueError(_ill_defined(dtype))
        if self.max_iter == 0:
            first = starts[int(np.flatnonzero(proper)[-1])]  # the last, as in scikit-learn
            first = first._replace(weights=first.weights / first.weights.sum())
            for i in range(len(starts) if self.verbose else 0):
                print(f"Initialization {i}")
            names = tuple("MAX_ITER" if one else "DEGENERATE" for one in proper)
            first = first if held.values is None else Parameters.of(held.start(first.as_mixture(self._family)))
            return Found(first, False, [], np.full(len(starts), np.nan), names, "")
        prior = _RegCovar.of(self.reg_covar, rows, self._family)
        mixtures = [held.start(start.as_mixture(self._family)) for start in starts]
        together = 1 if self.verbose else max(lane_count(len(mixtures)), MOST_TRACES // self._trace_length())
        ends = [
            end
            for first in range(0, len(mixtures), together)
            for end in self._run(mixtures[first : first + together], rows, prior, first, previous)
        ]
        return self._best(ends, rows)

    def _run(self, mixtures: list[Mixture], rows: Rows, prior: "_RegCovar", first: int, previous: float) -> list["End"]:
        """Climb from some starts in one queue; with `verbose` from one, in pieces, each of them printed."""
        dtype, r = rows.blocks.dtype, len(mixtures)
        turns = min(self.max_iter, MOST_TRACE)
        settings = Settings(lane_count(r), self._trace_length(), None)
        stop = _ChangeBelow(jnp.asarray(self.tol, dtype))
        printer = _Printer(self.verbose, self.verbose_interval, first)
        made = 1 if previous > -math.inf else min(turns, self.verbose_interval) if self.verbose else turns
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *mixtures)
        queue, _ = run_through(batch, rows, prior, stop, settings, limit=made - 1)
        total = float(np.sum(np.asarray(rows.weights, np.float64)))
        if previous > -math.inf:
            bound = float(queue.states.here.objective[0]) / total
            if abs(bound - previous) < self.tol:
                status: Any = np.full(r, int(Status.CONVERGED), np.int32)
                queue = queue._replace(states=queue.states._replace(status=status))
        while True:
            printer.iterations(queue, previous, total)
            if made >= turns or not np.any(np.asarray(queue.states.status) == Status.RUNNING):
                break
            made += min(turns - made, self.verbose_interval - made % self.verbose_interval if self.verbose else turns)
            queue, _ = run_through(queue.rung(np.arange(r), made - 1), rows, prior, stop, settings)
        printer.end(queue, total)
        states, traces, frame = jax.tree.map(np.asarray, (queue.states, queue.traces, rows.frame))
        return [
            End(
                here=states.here.mixture[i].from_frame(frame),
                plain=states.here.plain[i].from_frame(frame),
                status=int(states.status[i]),
                made=int(states.n_iter[i]) + 1,
                bound=float(states.here.objective[i]) / total,
                trace=traces[i],
            )
            for i in range(r)
        ]

    def _trace_length(self) -> int:
        """Turns that a trace has room for: few lengths, so that fits share programs."""
        return max(LEAST_TRACE, 2 ** math.ceil(math.log2(min(self.max_iter, MOST_TRACE))))

    def _best(self, ends: list["End"], rows: Rows) -> "Found":
        """The restart with the highest bound: of those that stayed sound, or else of those that collapsed on the way."""
        total = float(np.sum(np.asarray(rows.weights, np.float64)))
        family, dtype = self._family, np.dtype(rows.blocks.dtype)
        made = np.array([end.made for end in ends])
        bounds = np.array([float(end.bound) if end.made else np.nan for end in ends])
        collapsed = [_improper(end.plain.components.covariances, family) for end in ends]
        sound = np.array([end.made > 0 and end.status != Status.NONFINITE for end in ends])
        sound &= np.array([one.size == 0 for one in collapsed])
        if not (made > 0).any():
            raise ValueError(_ill_defined(dtype))
        among = sound if sound.any() else made > 0
        top = np.max(bounds[among])
        tie = 64 * np.finfo(dtype).eps * max(1.0, abs(top))  # the first of those that are as high to rounding
        chosen = int(np.flatnonzero(among & (bounds >= top - tie))[0])
        end, warning, mixture = ends[chosen], "", ends[chosen].plain
        if not sound[chosen]:
            mixture = end.here
            lost = ", ".join(str(j) for j in collapsed[chosen])
            which = f"component {lost}" if lost else "a component"
            which = "the covariance of all components" if family.shared else which
            warning = (
                f"{which} collapsed in iteration {made[chosen]}{' of the best restart' if len(ends) > 1 else ''}: the parameters "
                "are the last valid ones. Decrease n_components, increase reg_covar, or scale the data."
            )
        names = {int(Status.CONVERGED): "CONVERGED", int(Status.RUNNING): "MAX_ITER", int(Status.MAX_ITER): "MAX_ITER"}
        statuses = tuple(
            names.get(end.status, "DEGENERATE") if ok else "DEGENERATE" for end, ok in zip(ends, sound, strict=True)
        )
        converged = bool(sound[chosen] and end.status == Status.CONVERGED)
        trace = [dtype.type(float(value) / total) for value in end.trace[: end.made]]
        parameters = Parameters.of(mixture)
        if sound[chosen]:  # imagined rows put them there: to the last digit
            parameters.means[parameters.weights == 0] = rows.frame.centre
        return Found(parameters, converged, trace, bounds, statuses, warning)

    def _search(
        self, x: np.ndarray, weight: np.ndarray | None, random_state: np.random.RandomState, held: "Fixed"
    ) -> "Found":
        """The best optimum of the likelihood itself that `jaxem.search` finds."""
        key = jax.random.key(random_state.randint(2**31 - 1))
        budget = None if self.n_init == 1 else default_budget(x.size * self.n_components) * self.n_init
        options: dict[str, Any] = {"budget": budget, "chunk_size": self.chunk_size, "held": held.as_values()}
        found = search(key, self._family, x, self.n_components, weight, **options)
        best, total = found.best, float(len(x) if weight is None else weight.sum(dtype=np.float64))
        status = Status(int(best.status))
        parameters = Parameters.of(best.mixture)
        if status == Status.NONFINITE or not _are_proper(parameters.covariances, self._family):
            raise ValueError(_ill_defined(x.dtype))
        warning = ""
        if status.failed:
            what = "collapsed: the likelihood has no maximum for these data"
            what = what if status == Status.DEGENERATE else "ended at a saddle of the likelihood, which is no maximum"
            given = "the best of them" if found.penalised is None else "a penalised fit"
            why = "Decrease n_components or choose a simpler covariance_type"
            if found.collapse is not None:
                names = getattr(self, "feature_names_in_", None)
                why = f"The reason: {found.collapse.reason(names)}: {in_parameters(found.collapse.remedy, PARAMETERS)}"
            warning = f"every climb of the search {what}. The parameters are those of {given}. {why}."
        trace = np.asarray(best.trace, np.float64)[: int(best.n_iter) + 1] / total
        return Found(
            parameters,
            status in (Status.CONVERGED, Status.PRECISION_LIMITED),
            [x.dtype.type(value) for value in trace],
            np.asarray(found.finalists.objective, np.float64) / total,
            tuple(Status(int(one)).name for one in np.asarray(found.finalists.status)),
            warning,
        )

    # -- the fitted model ---------------------------------------------------------------------------------------------

    @property
    def mixture_(self) -> Mixture:
        """The fitted `jaxem.Mixture`; its leaves are arrays of numpy in the dtype of the attributes."""
        check_is_fitted(self)
        mixture, held = self._parameters().as_mixture(self._family), getattr(self, "_held", None)
        fits = held is not None and len(held.weights) == mixture.n_components  # attributes may be set by hand
        return dataclasses.replace(mixture, held=held) if fits else mixture

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows `[n, d]` and the components `[n]` they come from, sorted by these; as scikit-learn draws them."""
        check_is_fitted(self)
        n = as_n_samples(n_samples)
        rng = check_random_state(self.random_state)
        given = getattr(self, "covariances_", None)  # as in scikit-learn they are drawn from, also if set by hand
        own = self._parameters() if given is None else self._checked(given)
        weights, means, covariances = (np.asarray(leaf, np.float64) for leaf in own)
        with np.errstate(all="ignore"):
            return self._draw(rng, n, weights / weights.sum(), means, covariances)

    def _draw(
        self, rng: np.random.RandomState, n: int, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        counts = rng.multinomial(n, weights)
        k, d = means.shape
        if self._family.by_matrices:
            covariances = np.broadcast_to(covariances, (k, d, d))
            drawn = [rng.multivariate_normal(*each) for each in zip(means, covariances, counts.tolist(), strict=True)]
        else:
            drawn = [
                mean + rng.standard_normal(size=(count, d)) * np.sqrt(variance)
                for mean, variance, count in zip(means, covariances, counts, strict=True)
            ]
        return np.vstack(drawn), np.repeat(np.arange(k), counts)

    @property
    def _family(self) -> Gaussian:
        return _that_misses(FORMS[self.covariance_type], self.missing)

    def _parameters(self) -> "Parameters":
        """From the attributes. They may have been set by hand; then precisions_cholesky_ decides, as in scikit-learn.

        Where that is missing, covariances_ tell the same.
        """
        covariances = getattr(self, "covariances_", None)
        if not hasattr(self, "precisions_cholesky_"):
            if covariances is None:
                raise NotFittedError(
                    f"this {type(self).__name__} has neither covariances_ nor precisions_cholesky_; call fit first"
                )
            return self._checked(covariances)
        factor = np.asarray(self.precisions_cholesky_)
        by_matrix = self._family.by_matrices
        if covariances is not None and np.shape(covariances) == factor.shape:
            expected = _factors(np.asarray(covariances), self._family)[0]
            tol = 1e-9 if factor.dtype == np.float64 else 1e-4
            if expected is None or not np.allclose(factor, expected, rtol=tol, atol=tol * np.abs(factor).max()):
                covariances = None
        if covariances is None:
            precisions = factor @ np.swapaxes(factor, -1, -2) if by_matrix else factor**2
            covariances = _inverse(precisions, self._family)
        return self._as_parameters(covariances)

    def _checked(self, covariances: Any) -> "Parameters":
        """The parameters with these covariances, which the user may have set, in shapes that fit each other."""
        for name in ("weights_", "means_"):
            if not hasattr(self, name):
                raise NotFittedError(f"this {type(self).__name__} has no {name}; call fit first, or set it as well")
        own = self._as_parameters(covariances)
        if own.means.ndim != 2 or own.weights.shape != own.means.shape[:1]:
            raise ValueError(
                f"weights_ has shape {own.weights.shape} and means_ {own.means.shape}; give [k] and [k, d]"
            )
        for name, leaf in zip(("weights_", "means_"), own[:2], strict=True):
            if not np.isfinite(leaf).all():
                raise ValueError(f"{name} holds values that are not finite; give numbers for all")
        if np.any(own.weights < 0) or not np.any(own.weights > 0):
            raise ValueError(f"weights_ = {own.weights.tolist()}; give shares that are not negative and sum to one")
        k, d = own.means.shape
        _checked_matrices(own.covariances, self.covariance_type, k, d, "covariance")
        return own

    def _as_parameters(self, covariances: Any) -> "Parameters":
        dtype = np.result_type(np.asarray(self.weights_), np.asarray(self.means_), np.asarray(covariances), np.float32)
        return Parameters(*(np.asarray(leaf, dtype) for leaf in (self.weights_, self.means_, covariances)))

    def _set(self, parameters: "Parameters", family: Gaussian) -> None:
        """Set the attributes that hold parameters, all or none."""
        dtype = parameters.means.dtype
        cholesky, precisions = _factors(parameters.covariances, family)
        if cholesky is None or not np.isfinite(precisions).all():
            raise ValueError(ILL_DEFINED)
        self.weights_, self.means_, self.covariances_ = parameters
        self.precisions_cholesky_, self.precisions_ = cholesky.astype(dtype), precisions.astype(dtype)

    def _joint_of_lost(self, joint: np.ndarray, lost: np.ndarray, begin: int, mixture: Mixture) -> np.ndarray:
        """A Gaussian can produce any row: a lost one is so far away that its distances overflow."""
        raise LostRowError(
            f"X holds values too large: row {begin + int(np.argmax(lost))} is so far from every component that its distances "
            f"overflow {joint.dtype}; rescale the data or drop that row"
        )


def from_sklearn(model: Any) -> GaussianMixture:
    """The same fitted model as a GaussianMixture of jaxem, from a fitted `sklearn.mixture.GaussianMixture`."""
    import sklearn.mixture

    if not isinstance(model, (sklearn.mixture.GaussianMixture, GaussianMixture)):
        raise TypeError(f"model is a {type(model).__name__}; give a fitted sklearn.mixture.GaussianMixture")
    check_is_fitted(model)
    return _convert(model, GaussianMixture)


def to_sklearn(model: "GaussianMixture | Mixture") -> Any:
    """The same fitted model as a `sklearn.mixture.GaussianMixture`, from one of jaxem or a `jaxem.Mixture`."""
    import sklearn.mixture

    model = GaussianMixture.from_mixture(model) if isinstance(model, Mixture) else model
    check_is_fitted(model)
    return _convert(model, sklearn.mixture.GaussianMixture)


def _convert(model: Any, kind: type) -> Any:
    known = kind().get_params()
    given = {name: value for name, value in model.get_params(deep=False).items() if name in known}
    if not isinstance(given["init_params"], str) or given["init_params"] == "search":
        del given["init_params"]
    new = kind(**given)
    names = [name for name in vars(model) if name.endswith("_") and not name.startswith(("_", "restart_"))]
    for name in names:
        value = getattr(model, name)
        setattr(new, name, value.copy() if hasattr(value, "copy") else value)
    return new


# -- EM with reg_covar ---------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _RegCovar(Prior):
    """scikit-learn's `reg_covar` as imagined scatter, counts * reg_covar * I. It has no density: `log_prob` is 0, so the
    objective stays the likelihood.

    A component without rows gets one of weight `FAINT` at the mean of the data, and their covariance.

    Attributes:
        reg_covar: `[]`, added to the variances.
        mean: `[d]`, of the data.
        covariance: `[d, d]`, of the data; its diagonal where the family needs no more.
    """

    reg_covar: Array
    mean: Array
    covariance: Array

    @classmethod
    def of(cls, reg_covar: float, rows: Rows, family: Gaussian) -> "_RegCovar":
        """The prior of these rows."""
        frame, dtype = rows.frame, rows.blocks.dtype
        covariance = _covariance(rows) if family.by_matrices and not family.shared else np.diag(frame.variance)
        return cls(jnp.asarray(reg_covar, dtype), frame.centre, jnp.asarray(covariance, dtype))

    def log_prob(self, mixture: Mixture) -> Array:
        return jnp.zeros_like(mixture.log_weights[0])

    def shift(self, offset: Array) -> "_RegCovar":
        return dataclasses.replace(self, mean=self.mean + offset)

    def imagined(self, family: Gaussian, params: GaussianParams, stats: Stats) -> Stats:
        counts, d = stats.components.counts, params.means.shape[1]
        lost = jnp.where(counts > FAINT, 0.0, 1.0)
        nothing = super().imagined(family, params, stats)
        if counts.ndim == 2:  # each feature counts the rows that have it
            move = lost * (self.mean[None, :] - params.means)
            own = self.reg_covar * (counts + lost) + lost * jnp.diagonal(self.covariance)[None, :] + FAINT * move**2
            components = family.of_features(lost, FAINT * move, own)
            return dataclasses.replace(nothing, components=components._replace(counts=FAINT * lost))
        degrees = jnp.zeros_like(lost) if family.shared else lost
        move = lost[:, None] * (self.mean[None, :] - params.means)
        identity = jnp.eye(d, dtype=counts.dtype)
        second = family.scatter(self.reg_covar * identity, counts + degrees) + family.scatter(self.covariance, degrees)
        second = second + family.outer(math.sqrt(FAINT) * move)
        return dataclasses.replace(nothing, components=GaussianStats(FAINT * lost, degrees, FAINT * move, second))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _ChangeBelow:
    """scikit-learn's rule: stop once the mean log-likelihood changes by less than `tol`, up or down."""

    tol: Array

    def __call__(self, progress: Progress) -> Array:
        return jnp.where(jnp.abs(progress.gain) < self.tol, Status.CONVERGED, Status.RUNNING)


# -- numbers on the host -------------------------------------------------------------------------------------------------


class Parameters(NamedTuple):
    """What a mixture is: weights `[k]`, means `[k, d]`, covariances in the shape of `covariances_`."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @classmethod
    def of(cls, mixture: Mixture) -> "Parameters":
        """Those of a mixture, as arrays that may be written to."""
        means, covariances = (np.array(leaf) for leaf in mixture.components)
        weights = np.exp(np.asarray(mixture.log_weights, np.float64))
        return cls((weights / weights.sum()).astype(means.dtype), means, covariances)

    def as_mixture(self, family: Gaussian) -> Mixture:
        """The mixture with these parameters; its leaves are numpy's."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        return Mixture(log_weights, GaussianParams(self.means, self.covariances), family)  # type: ignore[arg-type]

    def astype(self, dtype: Any) -> "Parameters":
        """The same in another dtype."""
        return Parameters(*(_cast(np.asarray(leaf), dtype, "a parameter") for leaf in self))

    def overridden(self, given: "Given", family: Gaussian) -> "Parameters":
        """These parameters, with what is given in their place."""
        dtype = self.means.dtype
        covariances = self.covariances if given.precisions is None else _inverse(given.precisions, family)
        weights = self.weights if given.weights is None else given.weights
        means = self.means if given.means is None else given.means
        return Parameters(*(np.asarray(leaf, dtype) for leaf in (weights, means, covariances)))


class Given(NamedTuple):
    """The user's `*_init`."""

    weights: Any
    means: Any
    precisions: Any


class Fixed(NamedTuple):
    """What is held: a mixture with the values, or None; weights `[k]` with NaN where free, or None; variances of the data."""

    values: Mixture | None
    weights: Any
    variance: np.ndarray

    @property
    def static(self) -> Any:
        """`Mixture.held`."""
        return None if self.values is None else self.values.held

    def start(self, mixture: Mixture) -> Mixture:
        """A start that holds the values."""
        if self.values is None:
            return mixture
        held: Mixture = jax.tree.map(np.asarray, as_start(mixture, self.values, self.variance))
        return held

    def as_values(self) -> dict[str, np.ndarray] | None:
        """The same for `jaxem.search`."""
        if self.values is None:
            return None
        mask, found = self.values.held.of_components(self.values.components), {}  # type: ignore[union-attr]
        for name, own, value in zip(mask._fields, mask, self.values.components, strict=True):
            spread = own.reshape(*own.shape, *(1,) * (np.ndim(value) - own.ndim))
            found[name] = np.where(spread, np.asarray(value), np.nan)
        return found if self.weights is None else {"weights": np.asarray(self.weights, float), **found}

    def written(self, parameters: "Parameters") -> "Parameters":
        """Fitted parameters with what is held, bit by bit."""
        if self.values is None:
            return parameters
        mixture = restore(parameters.as_mixture(self.values.family), self.values)  # type: ignore[arg-type]
        means, covariances = (np.array(leaf) for leaf in mixture.components)
        weights = parameters.weights if self.weights is None else np.array(parameters.weights)
        if self.weights is not None:
            weights = np.where(np.isnan(self.weights), weights, self.weights).astype(weights.dtype)
        return Parameters(weights, means, covariances)


class End(NamedTuple):
    """Where the climb of one restart ended."""

    here: Mixture  # the parameters of the last bound
    plain: Mixture  # the M-step from them, which scikit-learn gives
    status: int
    made: int  # turns
    bound: float
    trace: np.ndarray  # objectives


class Found(NamedTuple):
    """What fitting found."""

    parameters: Parameters
    converged: bool
    bounds: list[Any]
    last_bounds: np.ndarray
    statuses: tuple[str, ...]
    warning: str


def _m_step_of(x: np.ndarray, resp: np.ndarray, total: float, family: Gaussian, reg_covar: float) -> Parameters:
    """The M-step of responsibilities, times sample weights that sum to `total`, by numpy in float64: no digit is lost to an
    offset."""
    counts = np.sum(resp, axis=0, dtype=np.float64)  # [k]
    owned = counts > 0
    safe = np.where(owned, counts, 1.0)
    centre = x[np.argmax(np.sum(resp, axis=1) > 0)].astype(np.float64)
    pieces = [slice(begin, begin + CHUNK) for begin in range(0, len(x), CHUNK)]
    means = sum(resp[piece].T.astype(np.float64) @ (x[piece] - centre) for piece in pieces) / safe[:, None]
    whole = np.asarray(counts @ means / counts.sum())
    (k, d), by_matrix = means.shape, family.by_matrices

    def scatter(piece: slice, mean: np.ndarray, share: np.ndarray) -> np.ndarray:
        difference = (x[piece] - centre) - mean
        weighed = share[piece].astype(np.float64)[:, None] * difference
        return weighed.T @ difference if by_matrix else np.sum(weighed * difference, axis=0)

    within = np.stack([sum(scatter(piece, means[j], resp[:, j]) for piece in pieces) / safe[j] for j in range(k)])
    if not owned.all():
        pooled = sum(scatter(piece, whole, np.sum(resp, axis=1)) for piece in pieces) / counts.sum()
        within[~owned], means[~owned] = (0.0 if family.shared else pooled), whole
    if family.shared:
        within = np.tensordot(counts, within, axes=1) / counts.sum()
    covariances = np.mean(within, axis=1) if len(family.covariance_shape(k, d)) == 1 else within
    covariances = covariances + (reg_covar * np.eye(d) if by_matrix else reg_covar)
    leaves = counts / total, centre + means, covariances
    return Parameters(*(leaf.astype(x.dtype) for leaf in leaves))


def _that_misses(family: Gaussian, missing: bool) -> Gaussian:
    """The same family, or the one to which NaN is a value that was not observed."""
    return cast(Gaussian, dataclasses.replace(cast(Any, family), missing=True)) if missing else family


def _complete(x: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Rows with the mean of its column in place of a missing value."""
    mean, _ = moments_of_observed(x, np.ones(len(x)) if weight is None else weight)
    return np.where(np.isnan(x), mean[None, :].astype(x.dtype), x)


def _covariance(rows: Rows) -> np.ndarray:
    """The covariance `[d, d]` of all rows; a missing value is taken to be the mean, from which all are differences."""
    blocks, weights = np.nan_to_num(np.asarray(rows.blocks, np.float64)), np.asarray(rows.weights, np.float64)
    return sum((w * block) @ block.T for block, w in zip(blocks, weights, strict=True)) / weights.sum()


def _factors(covariances: np.ndarray, family: Gaussian) -> tuple[Any, Any]:
    """precisions_cholesky_ and precisions_ of covariances, in float64; None for what is not positive definite."""
    if not _are_proper(covariances, family):
        return None, None
    covariances = covariances.astype(np.float64)
    with np.errstate(over="ignore", divide="ignore"):
        if not family.by_matrices:
            return 1 / np.sqrt(covariances), 1 / covariances
        factors = np.linalg.cholesky(covariances)
        unit = np.broadcast_to(np.eye(factors.shape[-1]), factors.shape)
        cholesky = np.swapaxes(np.linalg.solve(factors, unit), -1, -2)
        return cholesky, cholesky @ np.swapaxes(cholesky, -1, -2)


def _inverse(matrices: np.ndarray, family: Gaussian) -> np.ndarray:
    """Covariances of precisions, or the reverse."""
    matrices = matrices.astype(np.float64)
    if not family.by_matrices:
        return 1 / matrices
    inverse = np.linalg.inv(matrices)
    return 0.5 * (inverse + np.swapaxes(inverse, -1, -2))


def _improper(covariances: np.ndarray, family: Gaussian) -> np.ndarray:
    """Components whose covariance is not positive definite; for tied 0 if the one is not."""
    covariances = np.asarray(covariances, np.float64)
    if not family.by_matrices:
        good = (covariances > 0) & np.isfinite(covariances)
        return np.flatnonzero(~(good.all(axis=1) if good.ndim == 2 else good))
    bad = []
    for j, matrix in enumerate(covariances.reshape(-1, *covariances.shape[-2:])):
        try:
            if not np.isfinite(np.linalg.cholesky(matrix)).all():
                bad.append(j)
        except np.linalg.LinAlgError:
            bad.append(j)
    return np.array(bad, int)


def _are_proper(covariances: np.ndarray, family: Gaussian) -> bool:
    return _improper(covariances, family).size == 0


# -- checks, in scikit-learn's words -------------------------------------------------------------------------------------


def _ill_defined(dtype: Any) -> str:
    return ILL_DEFINED + (IN_SINGLE if np.dtype(dtype) == np.float32 else "")


def _check_none(given: Given) -> None:
    if any(one is not None for one in given):
        raise ValueError(
            "init_params='search' makes its own starts; leave weights_init, means_init and precisions_init out"
        )


def _check_shape(array: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if array.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}")


def _unmasked(value: Any, name: str) -> Any:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} has a mask over {int(np.sum(value.mask))} values; give numbers for all")
    return value


def _checked_weights(weights: Any, k: int) -> np.ndarray:
    weights = check_array(_unmasked(weights, "weights"), dtype=FLOATS, ensure_2d=False, input_name="weights")
    _check_shape(weights, (k,), "weights")
    if np.any(weights < 0) or np.any(weights > 1):
        raise ValueError(
            f"The parameter 'weights' should be in the range [0, 1], but got max value {np.min(weights):.5f}, "
            f"min value {np.max(weights):.5f}"
        )
    if abs(1 - weights.sum(dtype=np.float64)) > (1e-6 if weights.dtype == np.float32 else 1e-8):
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {np.sum(weights):.5f}")
    return weights


def _checked_matrices(matrices: Any, form: str, k: int, d: int, name: str) -> np.ndarray:
    """Precisions or covariances of the right shape, positive definite."""
    family = FORMS[form]
    shape = family.covariance_shape(k, d)
    matrices = check_array(
        _unmasked(matrices, name), dtype=FLOATS, ensure_2d=False, allow_nd=len(shape) > 2, input_name=name
    )
    _check_shape(matrices, shape, f"{form} {name}")
    if not family.by_matrices:
        if np.any(matrices <= 0):
            raise ValueError(f"'{form} {name}' should be positive")
    elif not np.allclose(matrices, np.swapaxes(matrices, -1, -2)) or not np.all(np.linalg.eigvalsh(matrices) > 0):
        raise ValueError(f"'{form} {name}' should be symmetric, positive-definite")
    return matrices


def _scaled(sample_weight: Any, x: np.ndarray) -> np.ndarray:
    """Checked weights of rows in the dtype of x; they count by their ratios."""
    with np.errstate(under="ignore"):
        return shares_of_weight(checked_sample_weight(sample_weight, x)).astype(x.dtype)


def _cast(array: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.isfinite(cast).all():
        raise ValueError(
            f"{name} holds values too large for {cast.dtype}, the dtype of X; rescale the data or use float64"
        )
    return cast


def _check_scale(x: np.ndarray, weight: np.ndarray | None, reg_covar: float) -> None:
    """Raise for values whose squares overflow, warn of a `reg_covar` that the data would be blurred by."""
    rows = x if weight is None else x[weight > 0]
    largest = float(np.max(np.abs(rows)))
    if largest > math.sqrt(np.finfo(x.dtype).max / (16 * rows.size)):
        raise ValueError(f"X holds values too large: the square of {largest:g} overflows {x.dtype}; rescale the data")
    with np.errstate(over="ignore", under="ignore"):
        variance = np.var(rows, axis=0, dtype=np.float64)
    spread = variance[variance > 0]
    if reg_covar > 0 and spread.size and reg_covar > NOTICEABLE * spread.min():
        feature = int(np.argmin(np.where(variance > 0, variance, np.inf)))
        warnings.warn(
            f"reg_covar = {reg_covar:g} is no small part of the variance of feature {feature}, {spread.min():.2g}: components "
            "may be merged by it. Scale the data or lower reg_covar.",
            UserWarning,
            stacklevel=5,
        )


class _Printer:
    """Prints what scikit-learn prints for `verbose`."""

    def __init__(self, verbose: int, interval: int, restart: int) -> None:
        self.verbose, self.interval = int(verbose), interval
        self.printed, self.began = 0, time.perf_counter()
        self.last = self.began
        if self.verbose:
            print(f"Initialization {restart}")

    def iterations(self, queue: Queue, previous: float, total: float) -> None:
        """Print the turns made since the last call."""
        if not self.verbose:
            return
        made = int(queue.states.n_iter[0]) + 1
        for turn in range(self.printed + 1, made + 1):
            if turn % self.interval:
                continue
            if self.verbose == 1:
                print(f"  Iteration {turn}")
                continue
            now, trace = time.perf_counter(), np.asarray(queue.traces[0], np.float64) / total
            change = trace[turn - 1] - (trace[turn - 2] if turn > 1 else previous)
            print(f"  Iteration {turn}\t time lapse {now - self.last:.5f}s\t ll change {change:.5f}")
            self.last = now
        self.printed = made

    def end(self, queue: Queue, total: float) -> None:
        """Print how the restart ended."""
        if not self.verbose:
            return
        message = "converged" if int(queue.states.status[0]) == Status.CONVERGED else "did not converge"
        if self.verbose == 1:
            print(f"Initialization {message}.")
            return
        lapse, bound = time.perf_counter() - self.began, float(queue.states.here.objective[0]) / total
        print(f"Initialization {message}. time lapse {lapse:.5f}s\t lower bound {bound:.5f}.")
