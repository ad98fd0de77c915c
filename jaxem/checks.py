"""Checks: what a user gives becomes arrays, or a ValueError that names the argument, the value found and the remedy."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.primitives import is_traced


def on_host(x: Any) -> bool:
    """Whether an array is in the host's memory, with its values known, and not put on a device of somebody's choice."""
    if isinstance(x, np.ndarray):
        return True
    if is_traced(x) or len(x.sharding.device_set) > 1:
        return False
    return all(device.platform == "cpu" and device == jax.local_devices(backend="cpu")[0] for device in x.devices())


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
        raise ValueError(f"n_components = {k} exceeds the {n} rows of x that count; give at most one component per row")
    return k


def as_supported(family: Any, x: ArrayLike, n_features: int | None = None) -> Array | np.ndarray:
    """`as_data`, and a ValueError if a value cannot occur under the family."""
    data = as_data(x, n_features=n_features)
    if is_traced(data):
        return data
    with jax.ensure_compile_time_eval():  # the data may be a constant inside somebody's jit
        possible = family.support(data)
        if possible is not True and not bool((np if isinstance(data, np.ndarray) else jnp).all(possible)):
            row, column = np.argwhere(~np.asarray(possible))[0]
            raise ValueError(
                f"x[{row}, {column}] = {np.asarray(data)[row, column]} cannot occur under {type(family).__name__}; "
                "recode the data or choose another family"
            )
    return data


def as_data(x: ArrayLike, *, n_features: int | None = None) -> Array | np.ndarray:
    """`x` as a floating-point array `[n, d]` of at least float32, or a ValueError saying what is wrong with it.

    Integers and booleans become JAX's default float, half precision becomes float32 (a sum over rows overflows it).
    Values are checked for NaN and infinity unless `x` is traced. What is in the host's memory comes back as numpy's.
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
    if not is_traced(x) and on_host(x):
        return _as_host_data(np.asarray(x))
    if not is_traced(x) and not bool(_all_finite_on_device(x)):
        raise ValueError(_not_finite(np.asarray(x)))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.asarray(x, float)
    return jnp.asarray(x, jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _as_host_data(x: np.ndarray) -> np.ndarray:
    """`as_data` of an array in the host's memory."""
    if not np.isfinite(x).all():
        raise ValueError(_not_finite(x))
    floating = np.dtype(jax.dtypes.canonicalize_dtype(float))
    if jnp.issubdtype(x.dtype, jnp.floating):
        floating = np.dtype(np.float32) if x.dtype.itemsize < 4 else np.dtype(jax.dtypes.canonicalize_dtype(x.dtype))
    with np.errstate(over="ignore"):
        data = x.astype(floating, copy=False)
    if data.dtype.itemsize < x.dtype.itemsize and not np.isfinite(data).all():
        row, column = np.argwhere(~np.isfinite(data))[0]
        raise ValueError(
            f"x[{row}, {column}] = {x[row, column]} is too large for {data.dtype}; rescale it or use float64"
        )
    return data


def _not_finite(x: np.ndarray) -> str:
    row, column = np.argwhere(~np.isfinite(x))[0]
    return f"x[{row}, {column}] = {x[row, column]}; drop or fill row {row}, every value must be finite"


def as_weights(sample_weight: ArrayLike | None, n: int, dtype: Any) -> Array | np.ndarray | None:
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
    return cast


@jax.jit
def _all_finite_on_device(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x))
