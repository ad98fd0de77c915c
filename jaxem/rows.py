"""Rows: data made ready once per fit, so that every pass reads them in the layout it wants.

`as_data` and `as_weights` are the edge: they turn what a user has into arrays and say in one line what is wrong with it.
`ready` does once what no pass should do again: rows of weight 0 are replaced by a row that counts (0 times a row of
1e200 is NaN otherwise), the data are centred where the family is equivariant to shifts, padded with rows of weight 0 and
cut into blocks `[m, d, b]` whose `[k, b]` arrays stay in cache. `sum_blocks` adds up what each block yields.
"""

import contextlib
import dataclasses
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

CACHE_FLOATS = {"cpu": 2**18}
"""floats a block may keep alive, by platform: about 1 to 2 MB, a core's L2 cache"""
CACHE_FLOATS_ELSEWHERE = 2**25
MIN_BLOCK, MAX_BLOCK = 256, 8192
"""rows in a block on a CPU: below the first a scan step costs more than its work, above the second nothing is won"""
LANES, LIVE_FLOATS = 64, 2**24
"""restarts that climb at once, at most; and floats they may keep alive in one array, on any platform"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Data ready for passes.

    Attributes:
        blocks: `[m, d, b]`, the data less `centre`, one block of b rows after the other.
        weights: `[m, b]`, non-negative; 0 marks padding.
        centre: `[d]`, what was subtracted (zeros if the family is not equivariant to shifts).
        variance: `[d]`, weighted variance of each feature: the yardstick for collapsed components.
    """

    blocks: Array
    weights: Array
    centre: Array
    variance: Array

    @property
    def total_weight(self) -> Array:
        """Sum of the sample weights, `[]`."""
        return jnp.sum(self.weights)


def ready(x: Array, sample_weight: Array | None, *, centred: bool, block: int) -> Rows:
    """Centre, pad and block `x` `[n, d]`; pure, runs under jit.

    Args:
        x: `[n, d]`, floating point.
        sample_weight: `[n]` or None for ones; rows of weight 0 count as absent, whatever they hold.
        centred: subtract the weighted mean (exact where x is a small step from its mean: Sterbenz 1974).
        block: rows in a block.
    """
    n, d = x.shape
    if sample_weight is None:
        weights, anchor = jnp.ones(n, x.dtype), x[0]
    else:
        weights = sample_weight.astype(x.dtype)
        anchor = x[jnp.argmax(weights > 0)]  # [d], a row that counts
        x = jnp.where(weights[:, None] > 0, x, anchor[None, :])
    total = jnp.sum(weights)
    # the mean of differences from a row: no digit is lost to an offset common to all rows
    mean = anchor + jnp.sum(weights[:, None] * (x - anchor[None, :]), axis=0) / total  # [d]
    centre = mean if centred else jnp.zeros(d, x.dtype)
    x = x - centre[None, :]
    spread = x if centred else x - mean[None, :]
    variance = jnp.sum(weights[:, None] * spread**2, axis=0) / total  # [d]

    m = -(-n // block)
    b = -(-n // m)  # even blocks: the least padding
    x = jnp.concatenate([x, jnp.broadcast_to(anchor - centre, (m * b - n, d))])
    weights = jnp.pad(weights, (0, m * b - n))
    return Rows(x.reshape(m, b, d).transpose(0, 2, 1), weights.reshape(m, b), centre, variance)


def sum_blocks(per_block: Callable[..., Any], rows: Rows, *more: Array) -> Any:
    """Add up `per_block(x [d, b], w [b], ...)` over the blocks, one block in memory at a time.

    `more` are further arrays of the rows, blocked alike: `[m, b, ...]`.
    """
    blocks = (rows.blocks, rows.weights, *more)
    first = [blocked[0] for blocked in blocks]
    if rows.blocks.shape[0] == 1:
        return per_block(*first)
    zeros = zeros_like_result(per_block, *first)

    def add(total: Any, block: tuple[Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(operator.add, total, per_block(*block)), None

    return jax.lax.scan(add, zeros, blocks)[0]


def blocked(of_rows: Array, rows: Rows) -> Array:
    """An array of the rows `[n, ...]` cut up as the rows are, `[m, b, ...]`, padded with zeros."""
    m, b = rows.weights.shape
    padding = [(0, m * b - of_rows.shape[0])] + [(0, 0)] * (of_rows.ndim - 1)
    return jnp.pad(of_rows, padding).reshape(m, b, *of_rows.shape[1:])


def zeros_like_result(function: Callable[..., Any], *args: Any) -> Any:
    """Zeros in the shapes and dtypes of `function(*args)`, which is not computed."""
    shapes = jax.eval_shape(function, *args)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def map_rows(per_row: Callable[[Array], Any], x: Array, block: int) -> Any:
    """Apply a function of rows `[b, d] -> [b, ...]` to `x` `[n, d]`, one block in memory at a time."""
    n, d = x.shape
    m = -(-n // block)
    if m == 1:
        return per_row(x)
    b = -(-n // m)
    x = jnp.concatenate([x, jnp.broadcast_to(x[0], (m * b - n, d))])
    mapped = jax.lax.map(per_row, x.reshape(m, b, d))
    return jax.tree.map(lambda leaf: leaf.reshape(m * b, *leaf.shape[2:])[:n], mapped)


def block_size(shape: tuple[int, ...], k: int, *, lanes: int = 1, chunk_size: int | None = None) -> int:
    """Rows in a block of x `[n, d]`: `chunk_size` if given, else as many as keep `lanes * k * d` floats a row in cache."""
    n, d = shape
    if chunk_size is not None:
        return min(n, as_count("chunk_size", chunk_size))
    platform = jax.default_backend()
    floats = CACHE_FLOATS.get(platform, CACHE_FLOATS_ELSEWHERE)
    rows = 2 ** int(math.log2(max(1, floats // (lanes * k * d))))
    largest = MAX_BLOCK if platform in CACHE_FLOATS else n
    return min(n, max(MIN_BLOCK, min(rows, largest)))


def lanes_of(restarts: int, floats: int) -> int:
    """How many restarts climb at once, evenly spread over batches, when each keeps arrays of so many floats."""
    most = max(1, min(LANES, LIVE_FLOATS // floats))
    return -(-restarts // -(-restarts // most))


@contextlib.contextmanager
def naming_memory() -> Iterator[None]:
    """Turn XLA's word for no memory into one that names the remedy."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
            raise MemoryError(
                "out of memory; pass a smaller chunk_size, fewer restarts at once or a smaller max_iter"
            ) from error
        raise


def is_traced(*values: Any) -> bool:
    """Whether any value is abstract, inside jit, vmap or grad: then only its shape can be checked."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def as_count(name: str, value: Any, least: int = 1, most: int = 2**31 - 1) -> int:
    """`value` as a Python int from `least` to `most`; raises ValueError naming the argument."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} = {value!r} is not a whole number; give an integer of at least {least}") from None
    if count < least:
        raise ValueError(f"{name} = {count} is too small; give an integer of at least {least}")
    if count > most:
        raise ValueError(f"{name} = {count} is too large; give an integer of at most {most}")
    return count


def as_components(n_components: Any, n: int) -> int:
    """The number of components as an int, checked against the number of rows before anything is allocated."""
    k = as_count("n_components", n_components, most=10**18)
    if k > n:
        raise ValueError(f"n_components = {k} exceeds the {n} rows of x; give at most one component per row")
    return k


def as_data(x: ArrayLike, *, n_features: int | None = None) -> Array:
    """`x` as a floating-point array `[n, d]` of at least float32, or a ValueError saying what is wrong with it.

    Integers and booleans become JAX's default float, half precision becomes float32 (a sum over rows overflows it).
    Values are checked for NaN and infinity unless `x` is traced.
    """
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(f"x has a mask over {int(np.sum(x.mask))} values; drop those rows or fill them in")
    if not isinstance(x, jax.Array):
        try:
            x = np.asarray(x)
        except ValueError:
            raise ValueError("x is ragged; give rows of one length, [n, d]") from None
        if x.dtype.kind not in "biuf":
            raise ValueError(f"x has dtype {x.dtype}; give real numbers")
        x = x.astype(np.float64 if x.dtype.itemsize > 8 else x.dtype.newbyteorder("="), copy=False)
    elif jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"x has dtype {x.dtype}; give real numbers")
    if np.ndim(x) != 2:
        raise ValueError(
            f"x has {np.ndim(x)} dimensions (shape {np.shape(x)}); give [n, d], for one feature x.reshape(-1, 1)"
        )
    n, d = np.shape(x)
    if n == 0 or d == 0:
        raise ValueError(f"x has shape {(n, d)}; give at least one row and one column")
    if n_features is not None and d != n_features:
        raise ValueError(f"x has {d} columns, the mixture {n_features}; give the columns it was fitted on")
    if not is_traced(x) and not _all_finite(x):
        row, column = np.argwhere(~np.isfinite(np.asarray(x)))[0]
        value = np.asarray(x)[row, column]
        raise ValueError(f"x[{row}, {column}] = {value}; drop or fill row {row}, every value must be finite")
    given = x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = jnp.asarray(x, float)
    elif jnp.finfo(x.dtype).bits < 32:
        x = jnp.asarray(x, jnp.float32)
    else:
        x = jnp.asarray(x)
    narrowed = not is_traced(x) and x.dtype.itemsize < given.dtype.itemsize
    if narrowed and not _all_finite(x):
        row, column = np.argwhere(~np.isfinite(np.asarray(x)))[0]
        value = np.asarray(given)[row, column]
        raise ValueError(f"x[{row}, {column}] = {value} is too large for {x.dtype}; rescale it or use float64")
    return x


def as_weights(sample_weight: ArrayLike | None, n: int, dtype: Any) -> Array | None:
    """`sample_weight` as an array `[n]`, or a ValueError; values are checked unless traced."""
    if sample_weight is None:
        return None
    if np.shape(sample_weight) != (n,):
        raise ValueError(f"sample_weight has shape {np.shape(sample_weight)}; give one weight for each of the {n} rows")
    if is_traced(sample_weight):
        return jnp.asarray(sample_weight, dtype)
    values = np.asarray(sample_weight)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"sample_weight has dtype {values.dtype}; give real numbers")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        raise ValueError(f"sample_weight[{bad[0]}] = {values[bad[0]]}; weights must be finite and not negative")
    if not np.any(values > 0):
        raise ValueError("sample_weight is zero everywhere; at least one row must count")
    with np.errstate(over="ignore", under="ignore"):
        cast = values.astype(jnp.dtype(dtype))
        if not np.isfinite(np.sum(cast)) or not np.any(cast > 0):
            raise ValueError(
                f"sample_weight sums to {values.sum()}, which {cast.dtype} cannot hold; rescale it to about 1"
            )
    return jnp.asarray(cast)


@jax.jit
def _all_finite_on_device(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x))


def _all_finite(x: Array | np.ndarray) -> bool:
    # on the host with numpy, and small data too, to spare a compilation; large data where they lie
    if isinstance(x, np.ndarray):
        return bool(np.isfinite(x).all())
    with jax.ensure_compile_time_eval():  # the data may be a constant inside somebody's jit
        return bool(np.isfinite(np.asarray(x)).all() if x.size <= 2**20 else _all_finite_on_device(x))
