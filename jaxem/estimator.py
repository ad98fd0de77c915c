"""scikit-learn's vocabulary for mixtures: what its estimators share here, and `MixtureModel`, for any family.

An estimator checks data as scikit-learn does, keeps the dtype of float32 and float64, makes float64 of all others, and
computes float64 in float64 whatever JAX's setting. A fit that fails leaves the old model whole. `jaxem.sklearn` has both
estimators, `MixtureModel` and `GaussianMixture`.
"""

import contextlib
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import jax
import numpy as np
from jax import Array

try:
    from sklearn.base import BaseEstimator, DensityMixin, _fit_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state
    from sklearn.utils._param_validation import Interval
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ModuleNotFoundError as error:  # the extra is missing
    raise ModuleNotFoundError(
        f"{error.name} is not installed; jaxem.sklearn needs: pip install 'jaxem[sklearn]'", name=error.name
    ) from error

from jaxem.accelerate import hybrid
from jaxem.checks import as_family, as_mixture, as_sample_size, as_supported
from jaxem.collapse import collapse_of
from jaxem.criteria import Criteria, criteria
from jaxem.display import Axes, picture
from jaxem.em import e_step, objective, to_frame
from jaxem.families.base import Family
from jaxem.held import as_start, values_of, with_held
from jaxem.holding import restore
from jaxem.init import FromMixture, Initializer, KMeans, KMeansPlusPlus, RandomPoints
from jaxem.loop import DEFAULT_TOL, MAX_ITER, Result
from jaxem.mixture import Mixture
from jaxem.moments import CHUNK
from jaxem.online import DECAY, OFFSET, Online, as_movable, begin, incremental_step, stepwise_step, with_room
from jaxem.priors import Prior
from jaxem.queue import best, fit_restarts, starts
from jaxem.racing import default_budget, search
from jaxem.reasons import Collapse
from jaxem.stopping import GainBelow, Status
from jaxem.threads import run_all

FLOATS = [np.float64, np.float32]
"""dtypes that are kept; all others become the first"""
PIECE_NUMBERS, LEAST_PIECE = 2**22, 512
"""log joint densities in memory at a time, and rows that are looked at together at least"""
FIRST_ROOM, MORE_ROOM = 16, 4
"""labelled batches that `partial_fit` has room for at first, and by what factor the room grows when it is full"""
STARTS: dict[str, Initializer] = {
    "k-means++": KMeansPlusPlus(),
    "kmeans": KMeans(),
    "random_from_data": RandomPoints(),
}
"""names of `init_params` besides "search", and the kind of start each stands for"""
PARAMETERS = {
    "lower the number of components": "decrease n_components",
    "start elsewhere": "change random_state",
    "use Diagonal() or Spherical()": "set family='diagonal' or 'spherical'",
    "use Diagonal()": "set family='diagonal'",
    "use a simpler family of covariances": "choose a simpler family",
    "give a prior such as jaxem.chen_tan(x)": "set prior=jaxem.chen_tan",
}
"""what `Collapse.remedy` says, and what to say of a `MixtureModel` instead"""


@dataclasses.dataclass
class Batches:
    """What `partial_fit` remembers from call to call.

    Attributes:
        state: EM under way; its leaves are numpy's.
        prior: that of the M-steps, where the data lie, or None.
        start: the mixture before the first batch, which has the values of what is held.
        labels: the number of each labelled batch; empty without labels.
        visited: labels that came since the last round of all labels, or since a label was new.
        since: the lower bound at that time.
        bounds: lower bounds per unit of weight, one a call.
        converged: whether the last round raised the bound by less than the tolerance.
    """

    state: Online
    prior: Prior | None
    start: Mixture
    labels: dict[Hashable, int] = dataclasses.field(default_factory=dict)
    visited: set[Hashable] = dataclasses.field(default_factory=set)
    since: float = math.nan
    bounds: list[float] = dataclasses.field(default_factory=list)
    converged: bool = False

    def after(self, state: Online, bound: float, batch: Hashable, tol: float) -> "Batches":
        """What is remembered after a turn that ended at `state` with this lower bound."""
        new = dataclasses.replace(self, state=state, bounds=[*self.bounds, bound])
        if batch is None:
            return new
        if batch not in self.labels:
            new.labels, new.converged = {**self.labels, batch: len(self.labels)}, False
            new.since, new.visited = bound, set()
            return new
        new.visited = self.visited | {batch}
        if len(new.visited) == len(new.labels):
            new.converged = bound - self.since < tol
            new.since, new.visited = bound, set()
        return new


class Estimator(DensityMixin, BaseEstimator):
    """What the estimators share: checks, scores and labels of rows. They have `mixture_`, and a `_fit` that sets it."""

    tol: Any
    learning_decay: float
    learning_offset: float

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to X `[n, d]`; a fit that fails leaves the model as it was.

        Args:
            X: `[n, d]`.
            y: not used.
            sample_weight: `[n]`, non-negative.

        Raises:
            ValueError: if the data, the weights or a parameter cannot be used, and if no climb ends at a mixture.
        """
        del y
        with self._whole_or_as_before():
            self._fit(X, sample_weight)
            self.__dict__.pop("_batches", None)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, batch: Hashable = None) -> Self:  # noqa: N803
        """Make one turn of EM: an E-step over a batch of rows, X `[n, d]`, and an M-step. A call that fails changes nothing.

        The first call draws the start from its batch, as `fit` does; of `n_init` starts it takes the one that the batch is
        likeliest under. After a `fit`, or in a model from a mixture, the start is the fitted mixture; the rows of that fit do
        not count. Each call ends with fitted attributes that tell of the mixture after it: `n_iter_` counts the calls, and
        `lower_bound_` bounds the mean log density of the rows so far.

        * With `batch`, incremental EM (Neal and Hinton 1998): the model keeps the statistics of each batch, and a label that
          came before has its old ones replaced. While no label is new, `lower_bound_` never falls, and the fixed points
          are those of EM over all rows at once; `converged_` says whether the last round of all labels raised it by less than
          `tol`. (A `reg_covar` blurs that by its own size, as it does in `fit`.)
        * Without, stepwise EM for rows that do not come again (Cappe and Moulines 2009): what was seen fades by
          (t + learning_offset)^-learning_decay. For equal batches, drawn independently, it converges to a stationary point of
          the expected log density of a row. No single call promises to raise the likelihood, and `converged_` stays False;
          `lower_bound_` is an average in which old batches fade too.

        Args:
            X: `[n, d]`; in the first call at least as many rows as components.
            y: not used.
            sample_weight: `[n]`, non-negative, on one scale in all calls.
            batch: a label of the batch, such as a number or a file's name; in all calls or in none.

        Raises:
            ValueError: if the data, the weights, the label or a parameter cannot be used, and if the M-step ends at no mixture.
            NotImplementedError: if the statistics of the family hold at one set of parameters only, as those of `Numerical` do.
        """
        del y
        with self._whole_or_as_before():
            self._partial_fit(X, sample_weight, batch)
        return self

    @contextlib.contextmanager
    def _whole_or_as_before(self) -> Iterator[None]:
        """The scope of a fit, which leaves the model as it was if it fails."""
        before = dict(self.__dict__)
        try:
            with np.errstate(all="ignore"):  # what overflows or vanishes on the way is judged at the end
                yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    @_fit_context(prefer_skip_nested_validation=True)
    def _partial_fit(self, X: Any, sample_weight: Any, batch: Hashable) -> None:  # noqa: N803
        known: Batches | None = getattr(self, "_batches", None)
        as_movable(self._asked_for()[0])
        x = self._as_rows(X, reset=not self._is_started())
        self._check_batch(batch, known)
        if known is not None:
            x = self._as_before(x, known.state.here)
        weight = None if sample_weight is None else checked_sample_weight(sample_weight, x)
        with self._float_scope(x.dtype):
            if known is None:
                start, prior = self._begin(x, weight)
                room = None if batch is None else FIRST_ROOM
                known = Batches(begin(start, x, weight, n_batches=room), prior, jax.tree.map(np.asarray, start))
            prior = self._prior_of(known)
            state = self._turn(known, x, weight, batch, prior)
            bound = float(_height_of(state, prior)) / float(state.weight)
            tol = DEFAULT_TOL[8 * x.dtype.itemsize] if self.tol is None else self.tol
            known = known.after(jax.tree.map(np.asarray, state), bound, batch, tol)
            mixture = jax.tree.map(np.array, restore(state.mixture, known.start))
        self._batches = known
        self._set_after_batch(mixture, known)

    def _turn(self, known: Batches, x: np.ndarray, weight: Any, batch: Hashable, prior: Prior | None) -> Online:
        """One turn of EM over a batch."""
        options: dict[str, Any] = {"prior": prior, "chunk_size": getattr(self, "chunk_size", None)}
        if batch is None:
            decay, offset = self.learning_decay, self.learning_offset
            return stepwise_step(known.state, x, weight, decay=decay, offset=offset, **options)
        number, state = known.labels.get(batch, len(known.labels)), known.state
        if number == state.n_batches:
            state = with_room(state, MORE_ROOM * number)
        return incremental_step(state, x, number, weight, **options)

    def _check_batch(self, batch: Hashable, known: Batches | None) -> None:
        """A ValueError if a label is none, or was not given in all calls."""
        if not isinstance(batch, Hashable):
            raise ValueError(
                f"batch has type {type(batch).__name__}, which is no label; give a number, a string or a tuple"
            )
        if known is not None and (batch is None) != (not known.labels):
            before = "had no label" if batch is not None else "had labels"
            raise ValueError(
                f"batch = {batch!r}, but the batches before {before}; give a label in all calls or in none"
            )

    def _as_before(self, x: np.ndarray, here: Mixture) -> np.ndarray:
        """Rows in the dtype of the batches before; a ValueError if the model was given other settings since."""
        family, k = self._asked_for()
        if (here.family, here.n_components) != (family, k):
            raise ValueError(
                f"partial_fit goes on from {here.n_components} components of {here.family!r}, but {k} of {family!r} were "
                "asked for; make a new model to start anew"
            )
        with np.errstate(over="ignore"):
            cast = x.astype(here.log_weights.dtype, copy=False)
        if not np.isfinite(cast).all():
            raise ValueError(
                f"X holds values too large for {cast.dtype}, the dtype of the first batch; rescale the data"
            )
        return cast

    def _best_start(self, found: list[Mixture], x: np.ndarray, weight: np.ndarray | None) -> Mixture:
        """The start under which the first batch is likeliest."""
        if len(found) == 1:
            return found[0]
        heights = [float(e_step(one, x, weight).log_likelihood) for one in found]
        return found[int(np.argmax([height if np.isfinite(height) else -np.inf for height in heights]))]

    # -- what an estimator says of itself -----------------------------------------------------------------------------

    def _fit(self, X: Any, sample_weight: Any) -> None:  # noqa: N803
        raise NotImplementedError

    def _is_started(self) -> bool:
        """Whether there is a fitted mixture."""
        raise NotImplementedError

    def _asked_for(self) -> tuple[Family, int]:
        """The family and the number of components that the parameters ask for."""
        raise NotImplementedError

    def _begin(self, x: np.ndarray, weight: np.ndarray | None) -> tuple[Mixture, Prior | None]:
        """The start for a first batch, and the prior."""
        raise NotImplementedError

    def _prior_of(self, known: Batches) -> Prior | None:
        """The prior of a turn."""
        return known.prior

    def _set_after_batch(self, mixture: Mixture, known: Batches) -> None:
        """Set the fitted attributes; a ValueError if this is no mixture."""
        raise NotImplementedError

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:  # noqa: N803
        """`fit(X).predict(X)`, `[n]`."""
        return self.fit(X, y, sample_weight).predict(X)

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """The log density of each row, `[n]`; -inf beyond what the dtype can hold."""
        return self._over_rows(Mixture.log_prob, X, lambda log_prob: log_prob)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: N803
        """The mean log density of the rows, weighted by `sample_weight` if given."""
        del y
        log_prob = self.score_samples(X)
        with np.errstate(all="ignore"):
            if sample_weight is None:
                return float(np.mean(log_prob))
            weight = shares_of_weight(checked_sample_weight(sample_weight, log_prob[:, None]))
            return float(np.average(log_prob[weight > 0], weights=weight[weight > 0]))

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The likeliest component of each row, `[n]`; no array `[n, k]` is made."""
        return self._over_rows(Mixture.log_joint, X, lambda joint: np.argmax(joint, axis=1))

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The probability of each component for each row, `[n, k]`; the weights for a row that no component can produce."""

        def shares(joint: np.ndarray) -> np.ndarray:
            resp = np.exp(joint - joint.max(axis=1, keepdims=True))
            return resp / resp.sum(axis=1, keepdims=True)

        return self._over_rows(Mixture.log_joint, X, shares)

    def bic(self, X: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """The Bayesian information criterion on X; the lower the better.

        With `sample_weight` `[n]` n is its sum, and a row of weight 2 counts as two. Weights that do not look like counts of
        rows are warned of.
        """
        return self._criteria(X, sample_weight).bic

    def aic(self, X: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """The Akaike information criterion on X, its rows weighted by `sample_weight` if given; the lower the better."""
        return self._criteria(X, sample_weight).aic

    def plot(self, X: Any = None, **options: Any) -> Axes:  # noqa: N803
        """`jaxem.plots.plot_mixture`, with rows X `[n, d]` `plot_responsibilities`; returns the axes."""
        return picture("plot_mixture" if X is None else "plot_responsibilities", self, X, **options)

    def _criteria(self, X: Any, sample_weight: Any) -> Criteria:  # noqa: N803
        score = self.score(X, sample_weight=sample_weight)
        n_rows = np.shape(X)[0] if hasattr(X, "shape") else len(X)
        n = as_sample_size(None, sample_weight, n_rows)
        return criteria(score * n, self._n_parameters(), n)

    def _n_parameters(self) -> int:
        return self.mixture_.n_parameters

    def _joint_of_lost(self, joint: np.ndarray, lost: np.ndarray, begin: int, mixture: Mixture) -> np.ndarray:
        """`joint` `[b, k]`, whose first row is row `begin` of X, with something for the rows that no component can produce."""
        del begin
        return np.where(lost[:, None], np.asarray(mixture.log_weights)[None, :], joint)

    def _over_rows(
        self,
        method: Callable[..., Array],
        X: Any,  # noqa: N803
        of_piece: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """What `of_piece` makes of `method` on some rows at a time, NaN read as -inf: only its answers are kept."""
        check_is_fitted(self)
        x = self._as_rows(X, reset=False)
        with np.errstate(all="ignore"):
            mixture = self.mixture_
        most = max(LEAST_PIECE, min(CHUNK, PIECE_NUMBERS // mixture.n_components))
        chunk_size = getattr(self, "chunk_size", None)

        def answer(begin: int) -> np.ndarray:
            with np.errstate(all="ignore"):  # of this thread
                piece = np.asarray(method(mixture, x[begin : begin + most], chunk_size=chunk_size))
                piece = np.where(np.isnan(piece), -np.inf, piece)
                if piece.ndim == 2:
                    lost = np.all(piece == -np.inf, axis=1)
                    piece = self._joint_of_lost(piece, lost, begin, mixture) if lost.any() else piece
                return of_piece(piece)

        with self._float_scope(np.result_type(x.dtype, mixture.log_weights.dtype)):
            first = answer(0)
            if len(x) <= most:
                return first
            found = np.empty((len(x), *first.shape[1:]), first.dtype)
            found[:most] = first

            def fill(begin: int) -> ValueError | None:
                try:
                    found[begin : begin + most] = answer(begin)
                except LostRowError as error:
                    return error
                return None

            errors = run_all([functools.partial(fill, begin) for begin in range(most, len(x), most)])
        for error in errors:  # the first row of all, however the threads ran
            if error is not None:
                raise error
        return found

    def _as_rows(self, X: Any, *, reset: bool) -> np.ndarray:  # noqa: N803
        """X as checked rows of float64 or float32."""
        holes = self.__sklearn_tags__().input_tags.allow_nan
        if isinstance(X, np.ma.MaskedArray) and np.ma.is_masked(X):
            if not holes:
                raise ValueError(f"X has a mask over {int(np.sum(X.mask))} values; drop those rows or fill them in")
            X = np.where(np.ma.getmaskarray(X), np.nan, X.data.astype(np.result_type(X.dtype, np.float32)))  # noqa: N806
        if isinstance(X, np.ndarray) and not X.dtype.isnative:
            X = X.astype(X.dtype.newbyteorder("="))  # noqa: N806
        least = {"ensure_min_samples": 2} if reset else {}
        try:
            return validate_data(
                self, X, reset=reset, dtype=FLOATS, ensure_all_finite="allow-nan" if holes else True, **least
            )
        except ValueError as error:
            if holes or "contains NaN" not in str(error):
                raise
            raise ValueError(
                "Input X contains NaN; drop or fill those rows, or fit with missing=True, where NaN is a value that was not "
                "observed"
            ) from None
        except OverflowError as error:
            raise ValueError(f"X holds a whole number too large for float64 ({error}); rescale the data") from error

    @contextlib.contextmanager
    def _float_scope(self, dtype: Any) -> Iterator[None]:
        """The scope in which float64 is computed in float64, whatever JAX's setting."""
        with jax.enable_x64(np.dtype(dtype).itemsize == 8):
            yield


class MixtureModel(Estimator):
    """A mixture of any family of jaxem, with scikit-learn's interface.

    Parameters:
        family: the kind of component: a `jaxem.Family` such as `jaxem.Bernoulli()`, or its name.
        n_components: k, at most n.
        init_params: "search" for `jaxem.search`, which races starts of several kinds; "k-means++", "kmeans" or
            "random_from_data"; an initialiser such as `jaxem.RandomParameters()`; or a `jaxem.Mixture` to start from.
        n_init: starts to climb from, of which the best is kept; for "search" a multiple of its default budget of passes.
        prior: a `jaxem.Prior`, or a function of (X, sample_weight) that makes one, such as `jaxem.chen_tan`.
        tol: a climb stops once a turn raises the objective by less than this per unit of weight; by default where less than
            1e-8 nats, or 1e-12 per unit of weight if that is more, are left to gain (float32: 1e-3 and 1e-5).
        max_iter: turns of a climb at most.
        random_state: of starts and of samples.
        warm_start: go on from the mixture of the last fit.
        held: parameters that stay as they are, as in `jaxem.search`: values by name, NaN where free; where the start is a
            mixture, also True or a bool for each component. {"weights": True} is equal proportions. docs/held.md.
        verbose: print how far the fit is.
        learning_decay, learning_offset: of `partial_fit` without labels: how fast old batches fade, above 1/2 and at most 1;
            and by how many batches the count of batches is put forward.

    Attributes:
        mixture_: the fitted `jaxem.Mixture`, to be saved by `jaxem.io.save` or used in a larger program.
        weights_: `[k]`, the mixing proportions.
        components_: the parameters of the family, arrays `[k, ...]`.
        log_likelihood_: of the data fitted to, rows weighted by `sample_weight`; NaN after `partial_fit`.
        lower_bound_: log-likelihood + log prior per unit of weight; after `partial_fit` a lower bound of that.
        converged_: whether the best climb met its stopping rule.
        n_iter_: turns of the best climb; after `partial_fit` the number of calls.
        status_: the `jaxem.Status` it ended in.
        n_features_in_, feature_names_in_: as in scikit-learn.

    `fit`, `fit_predict`, `score`, `bic` and `aic` take `sample_weight` `[n]`: a row of weight 0 is absent, one of weight 2
    stands for two. A fit that ends at no maximum raises a ValueError, one that does not converge warns. Where the likelihood
    has no maximum, a search may give a penalised fit, with a warning that says why.

    Example:
        >>> import numpy as np
        >>> from jaxem.sklearn import MixtureModel
        >>> rng = np.random.default_rng(0)
        >>> X = rng.random((1000, 6)) < np.where(rng.random((1000, 1)) < 0.3, 0.1, 0.8)
        >>> model = MixtureModel("bernoulli", 2, random_state=0).fit(X)
        >>> print(model.weights_.round(1).max(), model.components_.probs.shape, model.converged_)
        0.7 (2, 6) True
    """

    mixture_: Mixture
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "family": "no_validation",  # jaxem checks it, in its words
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "init_params": "no_validation",
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "prior": "no_validation",
        "tol": [Interval(Real, 0.0, None, closed="left"), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "held": "no_validation",
        "verbose": ["verbose"],
        "learning_decay": [Interval(Real, 0.5, 1.0, closed="right")],
        "learning_offset": [Interval(Real, 0.0, None, closed="left")],
    }

    def __init__(
        self,
        family: Family | str = "full",
        n_components: int = 1,
        *,
        init_params: Any = "search",
        n_init: int = 1,
        prior: Prior | Callable[[np.ndarray, np.ndarray | None], Prior] | None = None,
        tol: float | None = None,
        max_iter: int = MAX_ITER,
        random_state: Any = None,
        warm_start: bool = False,
        held: Mapping[str, Any] | None = None,
        verbose: int = 0,
        learning_decay: float = DECAY,
        learning_offset: float = OFFSET,
    ) -> None:
        self.family = family
        self.n_components = n_components
        self.init_params = init_params
        self.n_init = n_init
        self.prior = prior
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.warm_start = warm_start
        self.held = held
        self.verbose = verbose
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset

    @classmethod
    def from_mixture(cls, mixture: Mixture) -> "MixtureModel":
        """A fitted model with the parameters of a `jaxem.Mixture`, such as `jaxem.io.load` gives."""
        mixture = jax.tree.map(np.array, as_mixture(mixture))
        model, d = cls(mixture.family, mixture.n_components), mixture.family.n_features(mixture.components)
        model.mixture_, model.log_likelihood_, model.lower_bound_ = mixture, math.nan, math.nan
        model.status_, model.converged_, model.n_iter_ = Status.CONVERGED, True, 0
        if d is not None:
            model.n_features_in_ = d
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        with contextlib.suppress(TypeError, ValueError, IndexError):  # no family, or one of certain columns
            family = as_family(self.family)
            tags.input_tags.allow_nan = bool(family.holes)
            possible = family.support(np.full((1, 1), -1.0))
            tags.input_tags.positive_only = not np.all(possible)
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, X: Any, sample_weight: Any) -> None:  # noqa: N803
        family = as_family(self.family)
        x = self._as_rows(X, reset=True)
        weight = None if sample_weight is None else checked_sample_weight(sample_weight, x)
        random_state = check_random_state(self.random_state)
        with self._float_scope(x.dtype):
            result, why, penalised = self._climb(family, x, weight, jax.random.key(random_state.randint(2**31 - 1)))
            mixture = jax.tree.map(np.array, result.mixture)
        status = Status(int(result.status))
        if status.failed and not penalised:
            raise ValueError(f"Fitting the mixture model failed: {why}.")
        converged = status in (Status.CONVERGED, Status.PRECISION_LIMITED)
        if not converged:
            what = "The parameters are those of a penalised fit, because" if penalised else "The best climb:"
            warnings.warn(f"{what} {why}.", ConvergenceWarning, stacklevel=4)
        self.mixture_, self.log_likelihood_ = mixture, float(result.log_likelihood)
        self.lower_bound_ = float(result.objective) / (len(x) if weight is None else float(weight.sum()))
        self.status_, self.converged_, self.n_iter_ = status, converged, int(result.n_iter)

    # -- batches ------------------------------------------------------------------------------------------------------

    def _is_started(self) -> bool:
        return hasattr(self, "mixture_")

    def _asked_for(self) -> tuple[Family, int]:
        return as_family(self.family), self.n_components

    def _begin(self, x: np.ndarray, weight: np.ndarray | None) -> tuple[Mixture, Prior | None]:
        family, k = self._asked_for()
        as_movable(family)
        prior, random_state = self._prior(x, weight), check_random_state(self.random_state)
        key = jax.random.key(random_state.randint(2**31 - 1))
        start: Initializer
        if self._is_started():
            start = FromMixture(self._last(family, x.shape[1], "partial_fit", "make a new model"))
        elif isinstance(self.init_params, str) and self.init_params == "search":
            budget = None if self.n_init == 1 else default_budget(x.size * k) * self.n_init
            searched = search(key, family, x, k, weight, budget=budget, prior=prior, held=self.held)
            if Status(int(searched.best.status)).failed and searched.penalised is None:
                why = self._why(searched.best, searched.collapse)
                raise ValueError(f"No start was found in the first batch: {why}.")
            return searched.best.mixture, prior
        else:
            start = self._start()
        r = 1 if isinstance(start, FromMixture) else self.n_init
        found = self._holding(starts(key, family, x, k, r, start, weight), start, x)
        return self._best_start([found[i] for i in range(r)], x, weight), prior

    def _set_after_batch(self, mixture: Mixture, known: Batches) -> None:
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((mixture.components, mixture.weights)))
        wrong = mixture.family.check(mixture.components) if finite else "the parameters are not finite"
        if wrong:
            raise ValueError(
                f"The M-step of partial_fit ended at no mixture: {wrong}. Give larger batches or a prior, or lower n_components."
            )
        self.mixture_, self.log_likelihood_, self.lower_bound_ = mixture, math.nan, known.bounds[-1]
        self.status_ = Status.CONVERGED if known.converged else Status.RUNNING
        self.converged_, self.n_iter_ = known.converged, len(known.bounds)

    # -- climbs -------------------------------------------------------------------------------------------------------

    def _prior(self, x: np.ndarray, weight: np.ndarray | None) -> Prior | None:
        """The prior, made of the data if the parameter is a function."""
        makes = callable(self.prior) and not hasattr(self.prior, "imagined")
        return self.prior(x, weight) if makes else self.prior  # type: ignore[operator,misc,return-value]

    def _climb(self, family: Family, x: np.ndarray, weight: np.ndarray | None, key: Array) -> tuple[Result, str, bool]:
        """The best climb, how it ended, in words, and whether it was of a penalised objective."""
        k, warm = self.n_components, self.warm_start and hasattr(self, "mixture_")
        options: dict[str, Any] = {
            "prior": self._prior(x, weight),
            "stop": None if self.tol is None else GainBelow(self.tol),
            "max_iter": self.max_iter,
            "accelerator": hybrid(),
            "callback": _print_progress if self.verbose else None,
        }
        if not warm and isinstance(self.init_params, str) and self.init_params == "search":
            budget = None if self.n_init == 1 else default_budget(x.size * k) * self.n_init
            found = search(key, family, x, k, weight, budget=budget, held=self.held, **options)
            return found.best, self._why(found.best, found.collapse), found.penalised is not None
        start = FromMixture(self._last(family, x.shape[1])) if warm else self._start()
        r = 1 if isinstance(start, FromMixture) else self.n_init
        mixtures = self._holding(starts(key, family, x, k, r, start, weight), start, x)
        result = best(fit_restarts(mixtures, x, weight, **options))
        failed = Status(int(result.status)).failed
        return result, self._why(result, collapse_of(result.mixture, x, weight) if failed else None), False

    def _holding(self, mixtures: Mixture, start: Initializer, x: np.ndarray) -> Mixture:
        """Starts that hold what is asked for: of a mixture that was given its own values, of others those in `held`."""
        if isinstance(start, FromMixture):
            goes_on = hasattr(self, "mixture_") and self.held is None  # what the last fit held is free again
            return with_held(mixtures, {} if goes_on else self.held)
        family, k = self._asked_for()
        values = values_of(family, k, x.shape[1], mixtures.log_weights.dtype, self.held)
        return as_start(mixtures, values, np.var(x, axis=0))

    def _start(self) -> Initializer:
        """What `init_params` stands for, other than a search."""
        kind = self.init_params
        if isinstance(kind, str):
            if kind not in STARTS:
                raise ValueError(f"init_params = {kind!r}; choose from search, {', '.join(STARTS)}, or give a mixture")
            return STARTS[kind]
        if not callable(kind) and not hasattr(kind, "log_weights") and not hasattr(kind, "mixture_"):
            raise ValueError(f"init_params has type {type(kind).__name__}; give a name, an initialiser or a mixture")
        return kind if callable(kind) else FromMixture(as_mixture(kind))

    def _last(self, family: Family, d: int, what: str = "warm_start", remedy: str = "set warm_start=False") -> Mixture:
        """The mixture that `what` goes on from."""
        last = self.mixture_
        columns = last.family.n_features(last.components)
        if (last.family, last.n_components, columns or d) != (family, self.n_components, d):
            raise ValueError(
                f"{what} goes on from {last.n_components} components of {last.family!r} in {columns} columns, but "
                f"{self.n_components} of {family!r} in {d} were asked for; {remedy} to start anew"
            )
        return last

    def _why(self, result: Result, collapse: Collapse | None) -> str:
        """Why a climb ended and what to do, in the names of this class."""
        if collapse is None:
            return Status(int(result.status)).meaning
        reason = collapse.reason(getattr(self, "feature_names_in_", None))
        return f"{reason}: {in_parameters(collapse.remedy, PARAMETERS)}"

    def _as_rows(self, X: Any, *, reset: bool) -> np.ndarray:  # noqa: N803
        x = super()._as_rows(X, reset=reset)
        with self._float_scope(x.dtype):
            try:
                k = self.n_components if reset else self.mixture_.n_components
                as_supported(as_family(self.family) if reset else self.mixture_.family, x, k, exact=True)
            except ValueError as error:
                negative = np.fmin.reduce(x, axis=None) < 0 and self.__sklearn_tags__().input_tags.positive_only
                raise ValueError(f"{'Negative values in data: ' if negative else ''}{error}") from None
        return x

    @property
    def weights_(self) -> np.ndarray:
        """The mixing proportions `[k]`."""
        check_is_fitted(self)
        weights = np.exp(self.mixture_.log_weights, dtype=np.float64)
        return (weights / weights.sum()).astype(self.mixture_.log_weights.dtype)

    @property
    def components_(self) -> Any:
        """The parameters of the family."""
        check_is_fitted(self)
        return self.mixture_.components

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows `[n, d]` and the components `[n]` they come from, sorted by these, as in scikit-learn."""
        check_is_fitted(self)
        n = as_n_samples(n_samples)
        random_state, mixture = check_random_state(self.random_state), self.mixture_
        weights = np.exp(mixture.log_weights, dtype=np.float64)
        counts = random_state.multinomial(n, weights / weights.sum())
        labels = np.repeat(np.arange(mixture.n_components), counts)
        with self._float_scope(mixture.log_weights.dtype):
            key = jax.random.key(random_state.randint(2**31 - 1))
            params = jax.tree.map(jax.numpy.asarray, mixture.components)
            return np.array(mixture.family.sample(key, params, jax.numpy.asarray(labels))), labels


@jax.jit
def _height_of(state: Online, prior: Prior | None) -> Array:
    """The bound of the objective after a turn, `[]`."""
    return objective(state.here, state.total, to_frame(prior, state.frame))


def _print_progress(progress: Any) -> None:
    """Print how far a search or restarts are."""
    print(f"  {progress.passes} passes, best objective {progress.best:.6f}")


class LostRowError(ValueError):
    """A row that no component can produce."""


def checked_sample_weight(sample_weight: Any, x: np.ndarray) -> np.ndarray:
    """`sample_weight` `[n]` in float64, of which one at least is positive."""
    if isinstance(sample_weight, np.ma.MaskedArray) and np.ma.is_masked(sample_weight):
        raise ValueError(
            f"sample_weight has a mask over {int(np.sum(sample_weight.mask))} values; give numbers for all"
        )
    weight: np.ndarray = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
    if not np.any(weight > 0):
        raise ValueError("sample_weight is zero everywhere; at least one row must count")
    return weight


def shares_of_weight(weight: np.ndarray) -> np.ndarray:
    """Weights that count by their ratios, scaled by a power of two, which is exact: they neither overflow nor vanish."""
    with np.errstate(under="ignore"):
        return weight / 2.0 ** math.floor(math.log2(float(weight.max())))


def as_n_samples(n_samples: Any) -> int:
    """How many rows to draw, or a ValueError in scikit-learn's words."""
    if not isinstance(n_samples, Integral) or isinstance(n_samples, bool):
        raise ValueError(f"n_samples = {n_samples!r} is not a whole number; give an integer of at least 1")
    if n_samples < 1:
        raise ValueError(f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one sample.")
    return int(n_samples)


def in_parameters(remedy: str, parameters: dict[str, str]) -> str:
    """What to do, in the names of an estimator's parameters."""
    for python, parameter in parameters.items():
        remedy = remedy.replace(python, parameter)
    return remedy
