"""Family: what a kind of component must provide so that EM can fit a mixture of it, and nothing more.

A family describes p(x | params_j) for all k components at once. In the lecture's symbols, with r_ij the responsibilities,

    log_prob(params, x)                [n, d] -> [n, k]      log p(x_i | params_j)
    suff_stats(params, x, resp)                              sum_i r_ij T(x_i), additive over rows, taken about `params`
    m_step(params, counts, stats)                            argmax over params of sum_ij r_ij log p(x_i | params_j)

Everything else has a default built from these: `block_stats`, the fused pass over one block of rows, is overridden for
speed only. The laws in laws.py bind the parts together; `jaxem.verify` tries them on any family.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from jaxem.stats import Stats

Params = Any
"""a family's parameters: a pytree whose leaves lead with the component axis, except where components share one"""


BlockStats = Callable[[Array, Array, Array], Stats]
"""what a pass makes of one block: rows x `[d, b]`, their weights `[b]` and norms |x|^2 `[b]`"""


class Family(abc.ABC):
    """One kind of component, as an immutable value: equal settings are equal families and share compiled programs.

    Subclass as a frozen dataclass whose fields, if any, are hashable settings.
    """

    location: ClassVar[bool] = False
    """Whether x + offset has the same family with `shift(params, offset)`. The data are then centred during a fit."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), tuple(sorted(vars(self).items()))))

    # -- the contract -------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> Params:
        """The pooled fit, k times over: every component is the family's fit to all of `x` `[n, d]`."""

    @abc.abstractmethod
    def log_prob(self, params: Params, x: Array) -> Array:
        """Log densities `[n, k]` of the rows of `x` `[n, d]` under each component."""

    @abc.abstractmethod
    def suff_stats(self, params: Params, x: Array, resp: Array) -> Any:
        """Sufficient statistics, a pytree of sums over rows.

        `x` is `[n, d]`, `resp` `[n, k]` (times the sample weight). They may be taken about `params`, the parameters the
        responsibilities come from: differences from a current mean keep digits that raw moments lose.
        """

    @abc.abstractmethod
    def m_step(self, params: Params, counts: Array, stats: Any, prior: Any = None) -> Params:
        """The parameters that maximise the proxy (plus the log prior) given `counts` `[k]` and `suff_stats`.

        `params` are those the statistics were taken about. A component without rows (see `alive`) keeps its own.
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

    # -- what follows from it -----------------------------------------------------------------------------------------

    def block_stats(self, params: Params, log_weights: Array, x: Array, w: Array) -> Stats:
        """E-step and statistics of one block in one go: `x` `[d, b]`, `w` `[b]` -> Stats."""
        rows = x.T  # [b, d]
        log_prob, resp = normalise(self.log_prob(params, rows) + log_weights[None, :], axis=1)
        resp = resp * w[:, None]
        return Stats(weighted_sum(w, log_prob), jnp.sum(resp, axis=0), self.suff_stats(params, rows, resp))

    def pass_stats(self, params: Params, log_weights: Array, over_blocks: Callable[[BlockStats], Stats]) -> Stats:
        """`block_stats` summed by `over_blocks`: override it to work out once a pass what no block changes."""
        return over_blocks(lambda x, w, _: self.block_stats(params, log_weights, x, w))

    def place(self, params: Params, x: Array, centres: Array, sample_weight: Array | None = None) -> Params:
        """Pooled `params` (from `init` on `x`) moved to `centres` `[k, d]`: a start with component j at row j.

        By default the M-step of one half pooled data and one half the centre, which every family can do.
        """
        k = centres.shape[0]
        w = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight
        pooled = jnp.broadcast_to((0.5 * w / jnp.sum(w))[:, None], (x.shape[0], k))
        stats = jax.tree.map(
            jnp.add,
            self.suff_stats(params, x, pooled),
            self.suff_stats(params, centres, 0.5 * jnp.eye(k, dtype=x.dtype)),
        )
        return self.m_step(params, jnp.ones(k, x.dtype), stats)

    def narrowed(self, params: Params) -> Params:
        """Pooled `params` (from `init`) with the spread that each of k clusters side by side would have; by default as is."""
        return params

    def shift(self, params: Params, offset: Array) -> Params:
        """Parameters of x + offset `[d]`; needed where `location` is true."""
        raise NotImplementedError(f"{type(self).__name__} is no location family: it has no shift")

    def degenerate(self, params: Params, counts: Array, variance: Array) -> Array:
        """Which components have collapsed, `[k]` of bool, given counts `[k]` in rows and feature variances `[d]`."""
        del params, variance
        return ~alive(counts)

    def step_size(self, old: Params, new: Params) -> Array:
        """Size `[]` of a step between parameters, free of units: by default relative to the largest of each leaf."""
        sizes = [
            jnp.max(jnp.abs(b - a)) / jnp.maximum(jnp.max(jnp.abs(a)), tiny(a.dtype))
            for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        ]
        return jnp.max(jnp.stack(sizes))

    def units(self, params: Params, weights: Array) -> Array:
        """Natural units `[p]` of the chart's coordinates, by default 1: their standard errors from one row in all, of which
        component j has the share `weights[j]`.

        Accelerators measure lengths in them; right ones make a climb independent of the features' units.
        """
        del weights
        return jnp.ones_like(self.unconstrain(params))

    def support(self, x: Any) -> Any:
        """Which entries of `x` `[n, d]` can occur at all, `[n, d]` of bool, or True for any number."""
        del x
        return True

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
        """Numbers a row that the largest array of a pass keeps, by which rows are cut into blocks: by default k d."""
        return n_components * n_features


def tiny(dtype: Any) -> float:
    """The smallest normal number of a dtype."""
    return float(jnp.finfo(dtype).tiny)


def epsilon(dtype: Any) -> float:
    """The distance from 1 to the next number of a dtype."""
    return float(jnp.finfo(dtype).eps)


def alive(counts: Array) -> Array:
    """Which components own any rows at all, to rounding, `[k]` of bool; the others have nothing to be fitted to."""
    return counts > tiny(counts.dtype) / epsilon(counts.dtype)


def normalise(log_joint: Array, axis: int) -> tuple[Array, Array]:
    """Log of the sum of exponentials along the component axis, and each one's share of it: log p(x) and p(j | x).

    A row that no component can produce has log p(x) = -inf and no responsibilities (zeros).
    """
    top = jax.lax.stop_gradient(jnp.max(log_joint, axis=axis, keepdims=True))
    top = jnp.where(top == -jnp.inf, 0.0, top)
    joint = jnp.exp(log_joint - top)
    total = jnp.sum(joint, axis=axis, keepdims=True)
    resp = joint * (1.0 / jnp.where(total > 0, total, 1.0))
    return jnp.squeeze(top + jnp.log(total), axis), jnp.where(jnp.isnan(total), jnp.nan, resp)


def weighted_sum(w: Array, values: Array) -> Array:
    """sum_i w_i values_i, `[]`, where a weight of 0 silences even an infinite value."""
    return jnp.sum(jnp.where(w > 0, w * values, 0.0))


# An identity on `[]` of bool that under vmap asks all lanes: the answer stays one scalar, so that a `lax.cond` on it stays
# a branch, where one on a batched predicate would compute both sides.
_all_lanes_p = Primitive("all_lanes")
_all_lanes_p.def_impl(lambda yes: yes)
_all_lanes_p.def_abstract_eval(lambda yes: yes)
mlir.register_lowering(_all_lanes_p, lambda _, yes: [yes])


def _over_lanes(args: tuple[Array], dims: tuple[int]) -> tuple[Array, Any]:
    return _all_lanes_p.bind(jnp.all(args[0], axis=dims[0])), None  # not mapped


batching.primitive_batchers[_all_lanes_p] = _over_lanes


def all_lanes(yes: Array) -> Array:
    """Whether `yes` `[]` of bool holds in every lane of the vmaps around it; without any, `yes` itself."""
    return _all_lanes_p.bind(yes)
