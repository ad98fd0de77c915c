"""Checks: what a user gives becomes arrays, or a ValueError that names the argument, the value found and the remedy.

Without x64 JAX computes in float32. Rows on the host stay in float64 until they are centred (`exact=True`), so an offset
costs no digit of their differences. What float32 cannot hold even so is said in one warning: means, and rows that are
used where they lie.
"""

import contextlib
import contextvars
import dataclasses
import difflib
import importlib
import operator
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.names import FAMILY_NAMES, FORMS, WITH_SETTINGS
from jaxem.primitives import all_lanes, check_not_forked, is_traced

if TYPE_CHECKING:
    from jaxem.families.base import Family

COARSE = 1e-4
"""step between numbers of a dtype, in standard deviations of a column, from which it is said that digits are lost"""
LOOKED_AT = 2**16
"""rows by which it is judged whether digits are lost, at most"""
_silent = contextvars.ContextVar("_silent", default=False)


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


def as_columns(name: str, columns: Any, d: int | None) -> np.ndarray:
    """Numbers of some of d columns, `[m]`, from one number or several; a ValueError naming the argument."""
    several = [columns] if np.ndim(columns) == 0 else [*columns]
    for column in several:
        if isinstance(column, (bool, np.bool_)) or not isinstance(column, (int, np.integer)):
            raise ValueError(f"{name} = {columns!r}; give the numbers of columns, from 0, such as (0, 2)")
        if column < 0 or (d is not None and column >= d):
            raise ValueError(f"{name} holds {column}, and the columns are 0 to {(d or 1) - 1}; give one of these")
    if not several or len(set(several)) < len(several):
        raise ValueError(f"{name} = {columns!r}; give at least one column, and none twice")
    return np.asarray(several, int)


def as_given(columns: Any, values: Any, d: int, dtype: Any) -> tuple[np.ndarray, Array, np.ndarray]:
    """Numbers of the columns whose `values` are given, these values `[m]`, and the other columns; a ValueError otherwise."""
    index, given = as_columns("columns", columns, d), jnp.asarray(values, dtype).reshape(-1)
    if given.shape[0] != index.size:
        raise ValueError(f"values has {given.shape[0]} numbers for {index.size} columns; give one for each")
    if not is_traced(given) and bool(jnp.any(jnp.isnan(given))):
        raise ValueError("values holds NaN, and a value must be known to be given; leave its column out of columns")
    others = np.setdiff1d(np.arange(d), index)
    if not others.size:
        raise ValueError("columns names all columns; leave at least one whose density is wanted")
    return index, given, others


def as_components(n_components: Any, n: int) -> int:
    """The number of components as an int, checked against the number of rows before anything is allocated."""
    k = as_count("n_components", n_components, most=10**18)
    if k > n:
        raise ValueError(f"n_components = {k} exceeds the {n} rows of x that count; give at most one component per row")
    return k


INSTEAD = "jaxem.search(jax.random.key(0), jaxem.Full(), x, {k})"
"""what to write where data were given in place of a mixture"""


def as_family(family: Any) -> "Family":
    """A family, also from its name such as "full"; a TypeError or ValueError that says what to write for anything else."""
    if isinstance(family, str):
        name = family.strip().lower()
        if name in WITH_SETTINGS:
            raise ValueError(f"family = {family!r} has settings; write {WITH_SETTINGS[name]}")
        if name not in FAMILY_NAMES:
            close = difflib.get_close_matches(name, FAMILY_NAMES, 1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            known = ", ".join(one for one in FAMILY_NAMES if one.upper() not in FORMS)
            raise ValueError(
                f"family = {family!r} is unknown; choose from {known}, or mclust's letters such as vev{meant}"
            )
        # the families lie above this file
        of_class, *arguments = FAMILY_NAMES[name]
        named: Family = getattr(importlib.import_module("jaxem"), of_class)(*arguments)
        return named
    if isinstance(family, type) and hasattr(family, "suff_stats"):
        raise TypeError(f"family = {family.__name__} is a class; write {family.__name__}()")
    if not hasattr(family, "suff_stats"):
        raise TypeError(
            f"family is {_described(family)}; give a family such as jaxem.Full(), or its name, such as 'full'"
        )
    found: Family = family
    return found


def as_key(key: Any) -> Any:
    """One PRNG key, of the new kind or as raw numbers `[2]`; a TypeError that says what to write for anything else."""
    check_not_forked()
    dtype, shape = getattr(key, "dtype", None), np.shape(key)
    is_new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if is_new and shape == ():
        return key
    if dtype == np.uint32 and shape in ((2,), (4,)):
        return key
    if is_new or (dtype == np.uint32 and len(shape) > 1):
        raise TypeError(f"key is an array of keys, of shape {shape}; give one of them, such as key[0]")
    if isinstance(key, (int, np.integer)):
        raise TypeError(f"key = {key} is a number; write jax.random.key({int(key)})")
    raise TypeError(f"key is {_described(key)}; give a PRNG key, such as jax.random.key(0)")


def as_mixture(mixture: Any, x: Any = None) -> Any:
    """A mixture, also that of a fitted estimator; a TypeError that says what to write for anything else.

    `x` is the next argument of the user's call: with data in place of the mixture it may be the number of components.
    """
    if hasattr(mixture, "log_weights") and hasattr(mixture, "components"):
        if isinstance(mixture.family, (str, type)):
            return dataclasses.replace(mixture, family=as_family(mixture.family))
        return mixture
    if hasattr(mixture, "mixture_"):  # of a fitted estimator
        return mixture.mixture_
    if hasattr(mixture, "covariance_type") and hasattr(mixture, "means_"):  # scikit-learn's own
        raise TypeError(f"mixture is {_described(mixture)}; write jaxem.sklearn.from_sklearn(model).mixture_")
    for name in ("mixture", "best"):  # of a Result, a Search or a Selection
        if hasattr(mixture, name):
            inner = {"best": "best.mixture" if hasattr(mixture, "finalists") else "best.best.mixture"}.get(name, name)
            raise TypeError(f"mixture is {_described(mixture)}; give its .{inner}")
    if np.ndim(mixture) > 0 or hasattr(mixture, "__array__"):
        k = x if isinstance(x, (int, np.integer)) else 2
        raise TypeError(
            f"mixture is {_described(mixture)}: data come after a mixture to start from; to fit data write {INSTEAD.format(k=k)}"
        )
    raise TypeError(f"mixture is {_described(mixture)}; give a jaxem.Mixture, such as one of jaxem.starts")


def check_options(prior: Any, stop: Any, accelerator: Any) -> None:
    """A TypeError that says what to write if an option of a climb is of another kind."""
    if prior is not None and (isinstance(prior, type) or not hasattr(prior, "imagined")):
        raise TypeError(f"prior is {_described(prior)}; give a jaxem.Prior, such as jaxem.chen_tan(x), or None")
    if stop is not None and (isinstance(stop, type) or not callable(stop)):
        rule = f"jaxem.GainBelow({stop})" if isinstance(stop, (int, float)) else "jaxem.GainBelow(1e-10)"
        raise TypeError(f"stop is {_described(stop)}; give a stopping rule, such as {rule}, or None")
    if accelerator is not None and not (hasattr(accelerator, "init") and hasattr(accelerator, "update")):
        name = accelerator if isinstance(accelerator, str) else getattr(accelerator, "__name__", "hybrid")
        name = name if name in ("hybrid", "squarem", "anderson") else "hybrid"
        raise TypeError(
            f"accelerator is {_described(accelerator)}; write jaxem.{name}(), give an optax transformation, or None"
        )


def check_initializer(initializer: Any) -> None:
    """A TypeError that says what to write if a kind of start is none."""
    if isinstance(initializer, type):
        raise TypeError(f"initializer = {initializer.__name__} is a class; write {initializer.__name__}()")
    if not callable(initializer):
        raise TypeError(
            f"initializer is {_described(initializer)}; give a kind of start, such as jaxem.KMeansPlusPlus()"
        )
    if any(callable(leaf) for leaf in jax.tree.leaves(initializer)):
        raise TypeError(
            "initializer is a plain function; make it a dataclass registered with jax.tree_util.register_dataclass"
        )


def check_callback(callback: Any) -> None:
    """A TypeError if a callback cannot be called."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {_described(callback)}; give a function of one argument, or None")


def as_several(value: Any) -> tuple[Any, ...]:
    """One value or several, as a tuple; a name is one."""
    one = isinstance(value, (str, bytes, type)) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0
    return (value,) if one else tuple(value)


def check_from_host(what: str, *values: Any, instead: str = "use jaxem.starts and jaxem.fit_restarts there") -> None:
    """A TypeError if `what` is called inside jit, vmap or grad, where the values it decides by are not known."""
    if is_traced(*values) or is_traced(all_lanes(np.bool_(True))):  # type: ignore[arg-type]
        raise TypeError(f"{what} decides from the host and cannot run inside jit, vmap or grad; {instead}")


def _described(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (bool, int, float, str, np.number)):
        return repr(value) if len(repr(value)) < 50 else f"a {type(value).__name__}"
    if hasattr(value, "dtype") and np.ndim(value):
        return f"an array of shape {np.shape(value)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return f"a {type(value).__name__}"


def as_supported(
    family: Any, x: ArrayLike, n_components: int, n_features: int | None = None, *, exact: bool = False
) -> Array | np.ndarray:
    """`as_data`, and a ValueError if the rows do not suit a mixture of so many components of the family.

    `n_features` is how many columns the mixture has, if there is one.
    """
    if n_features is None and family.n_columns is not None and np.ndim(x) == 2 and np.shape(x)[1] != family.n_columns:
        raise ValueError(
            f"x has {np.shape(x)[1]} columns, {family!r} takes {family.n_columns}; give these, in its order"
        )
    data = as_data(x, n_features=n_features, exact=exact, holes=family.holes)
    if family.required_components not in (None, n_components):
        raise ValueError(f"n_components = {n_components} does not fit {family!r}; give {family.required_components}")
    if is_traced(data):
        return data
    with jax.ensure_compile_time_eval():  # the data may be a constant inside somebody's jit
        possible = family.support(data)
        if family.holes and possible is not True:
            possible = possible | np.isnan(data)
        if possible is not True and not bool((np if isinstance(data, np.ndarray) else jnp).all(possible)):
            row, column = np.argwhere(~np.asarray(possible))[0]
            raise ValueError(
                f"x[{row}, {column}] = {np.asarray(data)[row, column]} cannot occur under {type(family).__name__}; "
                "recode the data or choose another family"
            )
        complaint = family.complaint(data, n_components)
        if complaint is not None:
            raise ValueError(f"x {complaint}")
    return data


def check_start(family: Any, x: Any, sample_weight: Any, like: Any) -> None:
    """A ValueError if no start of a family can be drawn from rows that `as_supported` gave; with a mixture none need be."""
    if like is not None or is_traced(x, sample_weight):
        return
    objection = family.objection(x if sample_weight is None else x[np.asarray(sample_weight) > 0])
    if objection is not None:
        raise ValueError(objection)


def as_data(
    x: ArrayLike, *, n_features: int | None = None, exact: bool = False, holes: bool | tuple[int, ...] = False
) -> Array | np.ndarray:
    """`x` as a floating-point array `[n, d]` of at least float32, or a ValueError saying what is wrong with it.

    Integers and booleans become JAX's default float, half precision becomes float32 (a sum over rows overflows it).
    Values are checked for NaN and infinity unless `x` is traced. What is in the host's memory comes back as numpy's; with
    `exact` in float64 if JAX's float cannot hold it, for the caller to centre and cast. The columns of `holes` may hold NaN, and
    then what is masked becomes NaN.
    """
    check_not_forked()
    if hasattr(x, "overview"):
        raise TypeError(
            f"x is a {type(x).__name__}, and this function takes arrays; give some rows, such as x.sample(10_000), or "
            "write predictions with jaxem.predict_to"
        )
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        if not holes:
            raise ValueError(
                f"x has a mask over {int(np.sum(x.mask))} values; drop those rows, fill them in, or fit with missing=True"
            )
        x = np.where(np.ma.getmaskarray(x), np.nan, x.data.astype(np.result_type(x.dtype, np.float32)))
    if not isinstance(x, jax.Array):
        try:
            x = np.asarray(x)
        except ValueError:
            raise ValueError("x is ragged; give rows of one length, [n, d]") from None
        if x.dtype.kind not in "biuf":
            of_frame = ", of a frame frame.to_numpy(float, na_value=numpy.nan)" if x.dtype.kind == "O" else ""
            raise ValueError(f"x has dtype {x.dtype}; give real numbers{of_frame}")
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
        return _as_host_data(np.asarray(x), exact, holes)
    if not is_traced(x) and not bool(_all_finite_on_device(x)):
        _check_finite(np.asarray(x), holes)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.asarray(x, float)
    return jnp.asarray(x, jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _as_host_data(x: np.ndarray, exact: bool, holes: bool | tuple[int, ...]) -> np.ndarray:
    """`as_data` of an array in the host's memory."""
    if not np.isfinite(x).all():
        _check_finite(x, holes)
    floating = np.dtype(jax.dtypes.canonicalize_dtype(float))
    if jnp.issubdtype(x.dtype, jnp.floating):
        floating = np.dtype(np.float32) if x.dtype.itemsize < 4 else np.dtype(jax.dtypes.canonicalize_dtype(x.dtype))
    wide = np.result_type(x.dtype, np.float32)
    if not wide.itemsize > floating.itemsize:
        return x.astype(floating, copy=False)
    largest = np.finfo(floating).max
    if np.fmax.reduce(x, axis=None) > largest or np.fmin.reduce(x, axis=None) < -largest:  # of what is not NaN
        row, column = np.argwhere((x > largest) | (x < -largest))[0]
        raise ValueError(
            f"x[{row}, {column}] = {x[row, column]} is too large for {floating}; rescale it or use float64"
        )
    if exact:
        return x.astype(wide, copy=False)
    warn_of_coarse(x, floating)
    with np.errstate(under="ignore"):
        return x.astype(floating)


def warn_of_coarse(x: np.ndarray, dtype: Any) -> None:
    """Warn, in one line, if numbers of `dtype` lie coarsely where a column of `x` `[n, d]` lies, or cannot hold its variance."""
    if _silent.get():
        return
    seen = x[:: -(-x.shape[0] // LOOKED_AT)].astype(np.float64)
    lost = np.isnan(seen)
    if lost.any():  # a value of the column stands for what is missing
        seen = np.where(lost, seen[np.argmax(~lost, axis=0), np.arange(seen.shape[1])], seen)
        seen = np.where(np.isnan(seen), 0.0, seen)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        place = np.median(seen, axis=0)
        spread = np.std(seen - place, axis=0)
        steps = np.spacing(np.abs(place).astype(dtype)).astype(np.float64)
    coarse = np.flatnonzero((spread > 0) & (steps > COARSE * spread))
    if coarse.size:
        j = coarse[np.argmax(steps[coarse] / spread[coarse])]
        warn_user(
            f"column {j} of x lies near {place[j]:.3g} with a spread of {spread[j]:.2g}, where {np.dtype(dtype)} has steps of "
            f"{steps[j]:.2g}: means, and rows used where they lie (predict, log_prob), lose digits; call "
            'jax.config.update("jax_enable_x64", True) first, or subtract an offset from x'
        )


def warn_of_small(variance: np.ndarray, dtype: Any) -> None:
    """Warn, in one line, if a variance of the data, `[d]` in float64, is below what `dtype` holds with all its digits."""
    info = np.finfo(dtype)
    small = np.flatnonzero((variance > 0) & (variance < float(info.tiny) / float(info.eps)))
    if small.size and not _silent.get():
        j = small[np.argmin(variance[small])]
        warn_user(
            f"column {j} of x has a standard deviation of {np.sqrt(variance[j]):.2g}, whose square {np.dtype(dtype)} does "
            "not hold with all its digits; scale the data, for example to a standard deviation of 1"
        )


def warn_user(message: str) -> None:
    """A UserWarning at the line outside jaxem that called."""
    package, level, frame = str(Path(__file__).parent), 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


@contextlib.contextmanager
def already_told() -> Iterator[None]:
    """A scope in which lost digits are not warned of: the caller has warned of the same data."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def _check_finite(x: np.ndarray, holes: bool | tuple[int, ...]) -> None:
    """A ValueError for a value that is infinite, or NaN outside the columns of `holes`."""
    wrong = ~np.isfinite(x)
    if holes is not False:
        columns: Any = slice(None) if holes is True else list(holes)
        wrong[:, columns] = np.isinf(x[:, columns])
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        remedy = f"drop or fill row {row}, every value must be finite"
        if np.isnan(x[row, column]):
            remedy = f"drop or fill row {row}, or fit with missing=True, where NaN is a value that was not observed"
        raise ValueError(f"x[{row}, {column}] = {x[row, column]}; {remedy}")


def as_weights(sample_weight: ArrayLike | None, n: int, dtype: Any) -> Array | np.ndarray | None:
    """`sample_weight` as an array `[n]`, or a ValueError; values are checked unless traced."""
    if sample_weight is None:
        return None
    if not isinstance(sample_weight, jax.Array):
        try:
            sample_weight = np.asarray(sample_weight)
        except ValueError:
            raise ValueError(f"sample_weight is ragged; give one weight for each of the {n} rows") from None
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


def as_sample_size(
    n: Any, sample_weight: Any, n_rows: int, taken: str = "BIC and ICL take", remedy: str = "give n=, or weights"
) -> float:
    """The n of an information criterion: the one given, or the sum of the weights, which are taken for counts of rows.

    Where they do not look like counts this is said in one warning: they are not whole numbers, and their sum is not within
    a quarter of the number of rows that count, as that of weights with mean one is.
    """
    if n is not None:
        if isinstance(n, (bool, str)) or np.ndim(n) or not np.isreal(n) or not 0 < float(n) < np.inf:
            raise ValueError(
                f"n = {n!r}; give the number of observations that the weights stand for, positive and finite"
            )
        return float(n)
    if sample_weight is None:
        return float(n_rows)
    weights = np.asarray(sample_weight, np.float64)
    total, counted = float(weights.sum()), int(np.count_nonzero(weights))
    if not (0.75 <= total / counted <= 1.25 or np.all(weights == np.round(weights))):
        warn_user(
            f"sample_weight sums to {total:.4g} for {counted} rows: {taken} this for the number of observations n; {remedy} "
            "that count rows"
        )
    return total


@jax.jit
def _all_finite_on_device(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x))
