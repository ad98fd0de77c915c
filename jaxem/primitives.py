"""Primitives: small functions of arrays that every floor above uses and that know nothing of mixtures."""

import contextlib
import dataclasses
import math
import operator
import os
import sys
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

HIGHEST = jax.lax.Precision.HIGHEST
"""the precision of every contraction: by default a GPU may multiply in TF32 and a TPU in bfloat16, which destroys
covariances"""
MOST_NUMBERS = 8
"""numbers of an array that are shown"""

T = TypeVar("T")


def compact(cls: type[T]) -> type[T]:
    """Give a NamedTuple or dataclass a `__repr__` of one line: arrays of more than 8 numbers by their type and shape."""
    cls.__repr__ = _in_a_line  # type: ignore[method-assign]
    return cls


def _in_a_line(value: Any) -> str:
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return f"({', '.join(map(_in_a_line, value))})"
    if hasattr(value, "dtype") and math.prod(value.shape) > MOST_NUMBERS:
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    names = getattr(value, "_fields", None)
    if names is None and vars(type(value)).get("__repr__") is _in_a_line:
        names = [field.name for field in dataclasses.fields(value)]
    if names is None:
        return repr(value)
    return f"{type(value).__name__}({', '.join(f'{name}={_in_a_line(getattr(value, name))}' for name in names)})"


def dot(subscripts: str, *operands: Array) -> Array:
    """`jnp.einsum` at the highest precision."""
    return jnp.einsum(subscripts, *operands, precision=HIGHEST)


def tiny(dtype: Any) -> float:
    """The smallest normal number of a dtype."""
    return float(jnp.finfo(dtype).tiny)


def epsilon(dtype: Any) -> float:
    """The distance from 1 to the next number of a dtype."""
    return float(jnp.finfo(dtype).eps)


def alive(counts: Array) -> Array:
    """Whether each count, of any shape, is more than rounding; a component without rows has nothing to be fitted to."""
    return counts > tiny(counts.dtype) / epsilon(counts.dtype)


def positive(counts: Array) -> Array:
    """The counts with 1 in place of those that are not `alive`: safe to divide by."""
    return jnp.where(alive(counts), counts, 1.0)


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


def select(condition: Array, new: Any, old: Any) -> Any:
    """`jnp.where` over two pytrees: `new` where the condition `[]` holds, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def all_finite(tree: Any) -> Array:
    """Whether every number of a pytree is finite, `[]` of bool."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def is_traced(*values: Any) -> bool:
    """Whether any value is abstract, inside jit, vmap or grad: then only its shape can be checked."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


# The primitive is an identity on `[]` of bool that under vmap asks all lanes. The answer stays one scalar, so that a
# `lax.cond` on it stays a branch; on a batched predicate it would compute both sides.
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


def take(batch: Any, index: Any) -> Any:
    """`leaf[index]` of all leaves `[r, ...]` of a batch; an IndexError for a number that is not there."""
    if is_number(index):
        check_number(index, jax.tree.leaves(batch)[0].shape[0])
    # the NaN that pads a trace is no fault
    with contextlib.nullcontext() if is_traced(batch, index) else jax.debug_nans(False):
        return jax.tree.map(lambda leaf: leaf[index], batch)


def is_number(index: Any) -> bool:
    """Whether an index picks one entry, not several."""
    return not isinstance(index, (slice, list)) and np.ndim(index) == 0


def check_number(index: Any, n: int) -> None:
    """Raise an IndexError if `index` is none of n entries; traced ones are not looked at."""
    if isinstance(index, jax.core.Tracer):  # jax takes the nearest one there is
        return
    if not -n <= operator.index(index) < n:
        raise IndexError(f"index {index} is out of range; there are {n}")


_forked_after_use = False


def _after_fork() -> None:
    global _forked_after_use
    _forked_after_use = _forked_after_use or is_in_use()


def is_in_use() -> bool:
    """Whether JAX has begun to compute in this process, by whatever call."""
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    begun = getattr(bridge, "backends_are_initialized", None)  # JAX has no public name for it
    return begun is not None and bool(begun())


def cores() -> int:
    """Number of cores that this process may use. A program that has the machine to itself asks JAX for as many devices."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_not_forked() -> None:
    """A RuntimeError in a process forked after JAX began to compute: XLA's threads are not in it, so a call would hang."""
    if _forked_after_use:
        raise RuntimeError(
            "this process was forked after JAX began to compute, and XLA hangs in it; start workers with "
            'multiprocessing.get_context("spawn") or joblib\'s "loky", or fork before the first use of jaxem'
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
