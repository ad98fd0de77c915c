"""Family: what a kind of component must provide so that EM can fit a mixture of it, and nothing more.

A family describes p(x | params_j) for all k components at once. In the lecture's symbols, with r_ij the responsibilities,

    log_prob(params, x)            [n, d] -> [n, k]   log p(x_i | params_j)
    suff_stats(params, x, resp)                       sum_i r_ij T(x_i) and its counts; they add over rows
    m_step(params, stats)                             argmax over params of sum_ij r_ij log p(x_i | params_j)

It also writes `init`, `unconstrain`, `constrain` and `sample`. The other methods have defaults; only a location family
must write `shift`. The laws in laws.py bind the methods together; `jaxem.verify` tries them on any family.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.primitives import normalise, tiny, weighted_sum
from jaxem.stats import Stats

FIRST_STEPS = 12
"""steps, or halves of steps, that make a start where the M-step is not exact"""
Params = Any
"""a family's parameters: a pytree whose leaves lead with the component axis, except where components share one"""


class Family(abc.ABC):
    """One kind of component, as an immutable value: equal settings are equal families and share compiled programs.

    Subclass as a frozen dataclass whose fields, if any, are hashable settings.
    """

    @property
    def exact(self) -> bool:
        """Whether the M-step maximises what `bound` says. If not, it is a step towards the maximum, which may overshoot: a
        climb then halves a step that lowers the objective."""
        return True

    @property
    def n_given(self) -> int:
        """How many of the first columns are given: the density is that of the others, at these values."""
        return 0

    @property
    def shown_name(self) -> str:
        """What a table calls it."""
        return type(self).__name__

    @property
    def interchangeable(self) -> bool:
        """Whether components may change places: not if they are of different kinds, or their numbers are given."""
        return True

    @property
    def location(self) -> bool | tuple[int, ...] | Callable[[int], tuple[int, ...]]:
        """Which columns may move: where x + offset has the same family with `shift(params, offset)`. True is all of them, a
        tuple names some, a function names them given how many columns x has. A fit centres those columns."""
        return False

    @property
    def holes(self) -> bool | tuple[int, ...]:
        """Which columns may hold NaN, a value that was not observed: none, all (True) or those named."""
        return False

    @property
    def by_pattern(self) -> bool:
        """Whether rows that miss the same columns had better lie together: then it has `stats_of_runs` and `log_prob_of_runs`."""
        return False

    @property
    def conjugate(self) -> tuple[type, ...]:
        """The kinds of prior that speak of this family's parameters."""
        return ()

    @property
    def n_columns(self) -> int | None:
        """How many columns data must have; None if any number will do."""
        return None

    @property
    def required_components(self) -> int | None:
        """How many components a mixture must have; None if any number will do."""
        return None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), tuple(sorted(vars(self).items()))))

    def __repr__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if name != "missing" or value}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    # -- the contract -------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> Params:
        """The pooled fit, k times over: every component is the family's fit to all of `x` `[n, d]`."""

    @abc.abstractmethod
    def log_prob(self, params: Params, x: Array) -> Array:
        """Log densities `[n, k]` of the rows of `x` `[n, d]` under each component."""

    @abc.abstractmethod
    def suff_stats(self, params: Params, x: Array, resp: Array) -> Any:
        """Sufficient statistics with their counts, a pytree of sums over rows.

        `x` is `[n, d]`, `resp` `[n, k]` (times the sample weight). They may be taken about `params`, the parameters the
        responsibilities come from: differences from a current mean keep digits that raw moments lose.
        """

    @abc.abstractmethod
    def m_step(self, params: Params, stats: Any) -> Params:
        """The parameters that maximise the proxy given what `suff_stats` returns.

        `params` are those the statistics were taken about. A component without rows (see `primitives.alive`) keeps its
        own. A prior adds imagined statistics, so the counts need not be those of rows.
        """

    @abc.abstractmethod
    def unconstrain(self, params: Params) -> Array:
        """Coordinates `[p]` of the parameters in a minimal chart; finite for all parameters `m_step` can return."""

    @abc.abstractmethod
    def constrain(self, params: Params, free: Array) -> Params:
        """Inverse of `unconstrain`; `params` only tells the shapes."""

    @abc.abstractmethod
    def sample(self, key: Array, params: Params, labels: Array) -> Array:
        """Rows `[n, d]`, row i drawn from component `labels[i]`."""

    def complete(self, key: Array, params: Params, labels: Array, given: Array) -> Array:
        """The columns `[n, d - g]` after those that are given, `given` `[n, g]`, row i drawn from component `labels[i]`."""
        del given
        return self.sample(key, params, labels)

    # -- what follows from it -----------------------------------------------------------------------------------------

    def bound(self, new: Params, old: Params, x: Array) -> Array:
        """What the M-step raises, `[n, k]`: at most `log_prob(new, x)`, and equal to it at new = old.

        By default it is `log_prob` itself. A family with a latent variable of its own (a scale, a missing value) takes
        its expectation under `old` here.
        """
        del old
        return self.log_prob(new, x)

    def prepare(self, params: Params, log_weights: Array | None = None) -> Any:
        """What is the same for all blocks, computed once per pass for `block_stats`. By default the arguments.

        Without `log_weights` `[k]` all components weigh 1.
        """
        return params, log_weights

    def block_stats(self, prepared: Any, x: Array, w: Array, norms: Array) -> Stats:
        """E-step and statistics of one block: columns `x` `[d, b]`, weights `w` `[b]`, `norms` (`|x|^2`) `[b]`."""
        del norms
        params, log_weights = prepared
        rows = x.T  # [b, d]
        log_joint = self.log_prob(params, rows)
        if log_weights is not None:
            log_joint = log_joint + log_weights[None, :]
        log_prob, resp = normalise(log_joint, axis=1)
        resp = resp * w[:, None]
        return Stats(weighted_sum(w, log_prob), jnp.sum(resp, axis=0), self.suff_stats(params, rows, resp))

    def stats_of_runs(self, prepared: Any, x: Array, w: Array, run: int) -> Stats:
        """The same of a block in which `run` columns after each other miss the same values."""
        del run
        return self.block_stats(prepared, x, w, w)

    def log_prob_of_runs(self, params: Params, x: Array, run: int) -> Array:
        """`log_prob` of rows `[n, d]` of which `run` after each other miss the same values."""
        del run
        return self.log_prob(params, x)

    def impute(self, params: Params, resp: Array, x: Array, run: int = 1) -> Array:
        """Rows `x` `[n, d]` with expected values, by responsibilities `[n, k]`, in place of missing ones. By default none is."""
        del params, resp, run
        return x

    def place(
        self, params: Params, x: Array, centres: Array, sample_weight: Array | None = None, *, narrow: Array | int = 0
    ) -> Params:
        """Pooled `params` (from `init` on `x`) moved to `centres` `[k, d]`: a start with component j at row j.

        `narrow`, if it is not 0, asks for the spread that each of so many clusters side by side would have, where the
        family can tell. By default this is the M-step of one half pooled data and one half the centre, which every family can do.
        """
        del narrow
        k = centres.shape[0]
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight
        pooled = jnp.broadcast_to((0.5 * w / jnp.sum(w))[:, None], (x.shape[0], k))
        halves = ((x, pooled), (centres, 0.5 * jnp.eye(k, dtype=x.dtype)))

        def look(params: Params) -> tuple[Array, Any]:
            values, stats = zip(*(self.proxy_stats(params, rows, resp) for rows, resp in halves), strict=True)
            return values[0] + values[1], jax.tree.map(jnp.add, *stats)

        return self.maximise(params, look)

    def proxy_stats(self, params: Params, x: Array, resp: Array) -> tuple[Array, Any]:
        """The proxy's part of rows `x` `[n, d]` at `resp` `[n, k]`, `[]`, and their statistics; 0 where an exact M-step needs
        only these."""
        stats = self.suff_stats(params, x, resp)
        if self.exact:
            return jnp.zeros((), x.dtype), stats
        return jnp.sum(jnp.where(resp > 0, resp * self.log_prob(params, x), 0.0)), stats

    def maximise(self, params: Params, look: Callable[[Params], tuple[Array, Any]]) -> Params:
        """The parameters that maximise a proxy, where `look` tells its value `[]` and the statistics about any parameters.

        Where the M-step is not exact these are `FIRST_STEPS` steps, or halves of steps, that raise the proxy.
        """
        if self.exact:
            return self.m_step(params, look(params)[1])

        def step(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            best, value, tried = carry
            found, stats = look(self.constrain(params, tried))
            rises = found >= value  # not where it is NaN
            onward = self.unconstrain(self.m_step(self.constrain(params, tried), stats))
            onward = jnp.where(rises, onward, 0.5 * (best + tried))
            return jnp.where(rises, tried, best), jnp.where(rises, found, value), onward

        free = self.unconstrain(params)
        lowest = jnp.full((), -jnp.inf, free.dtype)
        return self.constrain(params, jax.lax.fori_loop(0, FIRST_STEPS, step, (free, lowest, free))[0])

    def shift(self, params: Params, offset: Array) -> Params:
        """Parameters of x + offset `[d]`; needed where `location` is not False."""
        raise NotImplementedError(f"{type(self).__name__} is not a location family: it has no shift")

    def settle(self, params: Params, centre: Array) -> Params:
        """Parameters of a start, with what is given about the data put where rows less `centre` `[d]` lie; as they are by
        default."""
        del centre
        return params

    def degenerate(self, params: Params, counts: Array, variance: Array) -> Array:
        """Which components have collapsed, `[k]` or `[]` of bool, given counts `[k]` in rows and feature variances `[d]`.

        A component has collapsed if the likelihood has no upper bound in its direction, or nearly none. By default none
        does. Components without rows are not asked about.
        """
        del params, variance
        return jnp.zeros(counts.shape, bool)

    def step_size(self, old: Params, new: Params) -> Array:
        """Size `[]` of a step between parameters, free of units: by default relative to the largest of each leaf."""
        sizes = [
            jnp.max(jnp.abs(b - a)) / jnp.maximum(jnp.max(jnp.abs(a)), tiny(a.dtype))
            for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
            if jnp.issubdtype(a.dtype, jnp.floating) and a.size
        ]
        return jnp.max(jnp.stack(sizes)) if sizes else jnp.zeros((), jax.tree.leaves(old)[0].dtype)

    def apart(self, params: Params, i: Array, j: Array) -> Array:
        """How far component i is from component j, `[]`: the size of a step from one to the other."""
        (_, one), (_, other) = (self.subset(params, index[None]) for index in (i, j))
        return self.step_size(one, other)

    def units(self, params: Params, weights: Array) -> Array:
        """The standard error `[p]` of each chart coordinate from a single row in all, of which component j has the share
        `weights[j]`: 1 / sqrt of the diagonal of the complete-data information. By default 1.

        Accelerators measure lengths in them; right ones make a climb independent of the features' units.
        """
        del weights
        return jnp.ones_like(self.unconstrain(params))

    # -- priors -------------------------------------------------------------------------------------------------------

    def log_prior(self, params: Params, prior: Any) -> Array:
        """Log density `[]` of a prior of a `conjugate` kind, without the terms that do not depend on `params`."""
        raise NotImplementedError(f"{type(self).__name__} has no log_prior for {type(prior).__name__}")

    def imagined(self, params: Params, stats: Any, prior: Any) -> Any:
        """The statistics that such a prior adds to `stats`, taken about `params`."""
        raise NotImplementedError(f"{type(self).__name__} has no imagined for {type(prior).__name__}")

    def is_bounded(self, params: Params, prior: Any, variance: Array) -> Array | bool:
        """Whether the objective has an upper bound with such a prior, `[]` of bool, for data of variances `[d]`."""
        del params, prior, variance
        return False

    # -- data and starts ----------------------------------------------------------------------------------------------

    def support(self, x: Any) -> Any:
        """Which entries of `x` `[n, d]` can occur at all, `[n, d]` of bool, or True for any number."""
        del x
        return True

    def complaint(self, x: Any, n_components: int) -> str | None:
        """What is wrong with rows `x` `[n, d]` for a mixture of so many components, in words; None if nothing is."""
        del x, n_components
        return None

    def objection(self, x: Any) -> str | None:
        """Why no start can be drawn from rows `x` `[n, d]` that count, in words; None if one can."""
        del x
        return None

    def possible(self, x: Array, n_components: int) -> Array | None:
        """Which components can have produced which row, `[n, k]` of bool, whatever the parameters; None if each can.

        A start gives a row to such components only, and begins a component at rows that no other can have produced.
        """
        del x, n_components
        return None

    def background(self, n_components: int) -> np.ndarray:
        """Which components lie behind all others, `[k]` of bool: a start gives them a small part of each row, no cluster."""
        return np.zeros(n_components, bool)

    def coordinates(self, x: Array, sample_weight: Array) -> Array:
        """Where rows `x` `[n, d]` lie for starts, which compare them by distance: `[n, e]`. By default where they are."""
        del sample_weight
        return x

    def denoise(self, params: Params, x: Array, resp: Array) -> Array:
        """The means `[n, d]` of the truth behind rows `x`, averaged over components by `resp` `[n, k]`."""
        del params, x, resp
        raise NotImplementedError(f"{self.shown_name} knows of no noise; fit Deconvolved() to with_noise(x, noise)")

    def marginal(self, params: Params, columns: np.ndarray) -> tuple["Family", Params]:
        """The family and the parameters of some columns, `columns` `[m]` of int, in that order."""
        del params, columns
        raise NotImplementedError(f"{type(self).__name__} has no marginal densities in closed form")

    def conditional(
        self, params: Params, columns: np.ndarray, values: Array, others: np.ndarray
    ) -> tuple["Family", Params, Array]:
        """The family and the parameters of the columns `others` where `columns` have `values` `[m]`, and the log densities
        `[k]` of these values. By default columns are independent given the component.
        """
        given, of_given = self.marginal(params, columns)
        return *self.marginal(params, others), given.log_prob(of_given, values[None, :])[0]

    def length(self, params: Params) -> int:
        """Number of components k; by default what the first leaf leads with."""
        return int(jax.tree.leaves(params)[0].shape[0])

    def n_features(self, params: Params) -> int | None:
        """Number of columns d that `log_prob` expects, or None if the parameters do not tell."""
        del params
        return None

    def subset(self, params: Params, index: Any) -> tuple["Family", Params]:
        """The family and the parameters of the components that `index`, a slice or an array of numbers, picks.

        By default every leaf leads with the component axis; override it where components share a parameter.
        """
        return self, jax.tree.map(lambda leaf: leaf[index], params)

    def table(self, params: Params) -> dict[str, Any]:
        """What a reader is shown of the components: names and arrays `[k]` or `[k, d]`; others are left out.

        By default the parameters themselves.
        """
        leaves, _ = jax.tree_util.tree_flatten_with_path(params)
        return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}

    def check(self, params: Params) -> str | None:
        """What is wrong with finite parameters from a file, arrays of numpy in float64; None if nothing is.

        The words begin with the name of the field, such as "covariances is not positive definite".
        """
        del params
        return None

    def row_floats(self, n_components: int, n_features: int) -> int:
        """How many numbers the largest array of a pass keeps for each row; blocks are cut by it. By default k d."""
        return n_components * n_features
