"""Families without free parameters: Uniform, a background for outliers, and Labelled, a column of known components.

They make of a mixture more than a mixture of one kind: a Union with a Uniform component is robust, a Product with a
Labelled column is semi-supervised. There is nothing to estimate, so their statistics are empty.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Family
from jaxem.families.movable import Movable
from jaxem.primitives import compact, epsilon

EDGE = 16
"""units of rounding of the bounds by which a row may lie outside a box"""


@compact
class UniformParams(NamedTuple):
    """The bounds of the box, `[k, d]` each, where the data lie; they are given, not estimated."""

    lows: Array
    highs: Array


@compact
class LabelledParams(NamedTuple):
    """Nothing, `[k, 0]`."""

    nothing: Array


class _Fixed(Movable):
    """What has no free parameters: every step leaves it as it is."""

    def suff_stats(self, params: Any, x: Array, resp: Array) -> Any:
        return jnp.zeros((resp.shape[1], 0), resp.dtype)

    def m_step(self, params: Any, stats: Any) -> Any:
        return params

    def move_stats(self, old: Any, new: Any, stats: Any) -> Any:
        return stats

    def expected(self, params: Any, stats: Any) -> Array:
        return jnp.zeros((), stats.dtype)

    def unconstrain(self, params: Any) -> Array:
        return jnp.zeros(0, params[0].dtype)

    def constrain(self, params: Any, free: Array) -> Any:
        return params

    def place(self, params: Any, x: Array, centres: Array, sample_weight: Any = None, *, narrow: Any = 0) -> Any:
        return params

    def coordinates(self, x: Array, sample_weight: Array) -> Array:
        return x[:, :0]


@dataclasses.dataclass(frozen=True)
class Uniform(_Fixed):
    """A constant density on the box from `low` to `high`, none outside: a background for outliers.

    Attributes:
        low: a number for all columns, or one for each.
        high: likewise, above `low`.

    Example:
        >>> import jaxem
        >>> jaxem.Union((jaxem.Full(), 2), (jaxem.Uniform((0.0, 40.0), (6.0, 100.0)), 1)).required_components
        3
    """

    low: float | Sequence[float] | np.ndarray
    high: float | Sequence[float] | np.ndarray

    location = True
    holes = True

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        low, high = np.atleast_1d(self.low), np.atleast_1d(self.high)
        if len(low) != len(high) and 1 not in (np.size(self.low), np.size(self.high)):
            raise ValueError(f"low has {len(low)} numbers, high {len(high)}; give one for each column of both")
        if not np.all(low < high):
            raise ValueError(f"low = {self.low} is not below high = {self.high}; give a box with a volume")

    @property
    def n_columns(self) -> int | None:
        sizes = [len(bound) for bound in (self.low, self.high) if isinstance(bound, tuple)]
        return max(sizes, default=None)

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> UniformParams:
        shape = n_components, x.shape[1]
        return UniformParams(*(jnp.broadcast_to(jnp.asarray(bound, x.dtype), shape) for bound in (self.low, self.high)))

    def log_prob(self, params: UniformParams, x: Array) -> Array:
        low, high, margin = self._bounds(x.dtype, x.shape[1])
        lows, highs = (params.lows - margin[None, :])[None], (params.highs + margin[None, :])[None]  # [1, k, d]
        missing = x != x
        inside = ((x[:, None, :] >= lows) & (x[:, None, :] <= highs)) | missing[:, None, :]
        volumes = jnp.sum(
            jnp.where(missing, 0.0, jnp.log(high - low)[None, :]), axis=1, keepdims=True
        )  # of what was observed
        return jnp.where(jnp.all(inside, axis=2), -volumes, -jnp.inf)

    def impute(self, params: UniformParams, resp: Array, x: Array, run: int = 1) -> Array:
        middle = 0.5 * (params.lows + params.highs)
        return jnp.where(x == x, x, jnp.sum(resp[:, :, None] * middle[None], axis=1))

    def settle(self, params: UniformParams, centre: Array) -> UniformParams:
        absolute = self.init(centre[None, :], params.lows.shape[0])
        return self.shift(absolute, -centre)

    def sample(self, key: Array, params: UniformParams, labels: Array) -> Array:
        shape = labels.shape[0], params.lows.shape[1]
        part = jax.random.uniform(key, shape, params.lows.dtype)
        return params.lows[labels] + part * (params.highs - params.lows)[labels]

    def shift(self, params: UniformParams, offset: Array) -> UniformParams:
        return UniformParams(params.lows + offset[None, :], params.highs + offset[None, :])

    def support(self, x: Any) -> Any:
        low, high, margin = self._bounds(x.dtype, x.shape[1])
        return (x >= (low - margin)[None, :]) & (x <= (high + margin)[None, :])

    def background(self, n_components: int) -> np.ndarray:
        return np.ones(n_components, bool)

    def marginal(self, params: UniformParams, columns: np.ndarray) -> tuple[Family, UniformParams]:
        low, high, _ = self._bounds(np.float64, params.lows.shape[1])
        return Uniform(low[columns], high[columns]), UniformParams(params.lows[:, columns], params.highs[:, columns])

    def n_features(self, params: UniformParams) -> int:
        return params.lows.shape[-1]

    def table(self, params: UniformParams) -> dict[str, Any]:
        return {"low": params.lows, "high": params.highs}

    def check(self, params: UniformParams) -> str | None:
        low, high, margin = self._bounds(np.float64, params.lows.shape[-1])
        off = np.abs(params.highs - params.lows - (high - low)) > 1e-4 * (high - low) + margin
        return "lows and highs do not belong to the box of the family" if off.any() else None

    def _bounds(self, dtype: Any, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        low, high = (np.broadcast_to(np.asarray(bound, dtype), (d,)) for bound in (self.low, self.high))
        return low, high, (EDGE * epsilon(dtype) * np.maximum(np.abs(low), np.abs(high))).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Labelled(_Fixed):
    """One column: the number of the component that a row is known to come from, from 0; -1 where it is not known.

    Beside other columns, in a `Product`, it makes a fit semi-supervised: a row goes to its component alone. A start
    begins component j at rows that are labelled j.

    Example:
        >>> import jaxem
        >>> jaxem.Product((jaxem.Full(), (0, 1)), (jaxem.Labelled(), (2,))).n_columns
        3
    """

    interchangeable = False

    @property
    def n_columns(self) -> int:
        return 1

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> LabelledParams:
        return LabelledParams(jnp.zeros((n_components, 0), x.dtype))

    def log_prob(self, params: LabelledParams, x: Array) -> Array:
        return jnp.where(_may_be(x, params.nothing.shape[0]), jnp.zeros((), x.dtype), -jnp.inf)

    def sample(self, key: Array, params: LabelledParams, labels: Array) -> Array:
        return labels[:, None].astype(params.nothing.dtype)

    def support(self, x: Any) -> Any:
        return (x == x.round()) & (x >= -1)

    def complaint(self, x: Any, n_components: int) -> str | None:
        most = int(x.max())
        if most < n_components:
            return None
        return f"holds the label {most} for {n_components} components; give labels from 0 to {n_components - 1}, or -1"

    def possible(self, x: Array, n_components: int) -> Array:
        return _may_be(x, n_components)

    def apart(self, params: LabelledParams, i: Array, j: Array) -> Array:
        return jnp.full((), jnp.inf, params.nothing.dtype)  # labels part components that are equal otherwise

    def n_features(self, params: LabelledParams) -> int:
        return 1


def _may_be(x: Array, k: int) -> Array:
    """Whether a row may come from each component, `[n, k]` of bool, by its label."""
    return (x[:, :1] < 0) | (x[:, :1] == jnp.arange(k, dtype=x.dtype)[None, :])


def _numbers(name: str, value: Any) -> float | tuple[float, ...]:
    several = (isinstance(value, Sequence) and not isinstance(value, str)) or getattr(value, "ndim", 0) == 1
    try:
        numbers = tuple(float(one) for one in (value if several else [value]))
    except (TypeError, ValueError, ArithmeticError):
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} = {value!r}; give a finite number, or one for each column")
    return numbers if several else numbers[0]
