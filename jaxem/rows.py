"""Rows: data made ready once per fit, so that every pass reads them in the layout it wants.

`as_data` and `as_weights` are the edge: they turn what a user has into arrays and say in one line what is wrong with it.
`ready` and `ready_on_host` do once what no pass should do again: rows of weight 0 are replaced by a row that counts (0
times a row of 1e200 is NaN otherwise), the data are centred where the family is equivariant to shifts, padded with rows of
weight 0 and cut into blocks `[m, d, b]` whose largest arrays stay in cache. `sum_blocks` adds up what each block yields.

Data in the host's memory are made ready there, by numpy, and padded to one of a few sizes (`bucket`), so that another
number of rows compiles nothing. Data on a device, or traced, are made ready by JAX as they are. Rows that lie on several
devices stay there: each device passes over its own, and the sums are added across (`Rows.mesh`).
"""

import concurrent.futures
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
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

CACHE_BYTES = {"cpu": (2**17, 2**22)}
"""bytes of the largest array that a pass makes of a block, several of which fit in a core's own cache, and of the block
itself, which should stay in the cache that cores share; by platform"""
CACHE_BYTES_ELSEWHERE = (2**26, 2**28)
MIN_BLOCK, MAX_BLOCK = 512, 4096
"""rows in a block on a CPU: below the first a scan step costs more than its work, above the second nothing is won"""
TILE = 2**15
"""numbers that are transposed at a time on the host: beyond, columns of a block fall into the same lines of the cache"""
HUGE = 2**28
"""numbers in one array from which on memory may not do"""
CHUNK = 2**16
"""rows that functions of rows take at a time from the host"""
ROWS = "rows"
"""name of the axis of a mesh along which rows lie"""


SPECS = (PartitionSpec(ROWS),) * 3 + (PartitionSpec(),) * 2
"""how the leaves of Rows lie on a mesh"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Data ready for passes.

    Attributes:
        blocks: `[m, d, b]`, the data less `centre`, one block of b rows after the other.
        weights: `[m, b]`, non-negative; 0 marks padding.
        norms: `[m, b]`, |x|^2 of each row of `blocks`.
        centre: `[d]`, what was subtracted (zeros if the family is not equivariant to shifts).
        variance: `[d]`, weighted variance of each feature: the yardstick for collapsed components.
        mesh: the devices over which blocks are spread, or None for one; static.
    """

    blocks: Array
    weights: Array
    norms: Array
    centre: Array
    variance: Array
    mesh: Mesh | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def total_weight(self) -> Array:
        """Sum of the sample weights, `[]`."""
        return jnp.sum(self.weights)

    def as_matrix(self) -> tuple[Array, Array]:
        """The rows `[n, d]`, less `centre` and padded, and their weights `[n]`."""
        m, d, b = self.blocks.shape
        return self.blocks.transpose(0, 2, 1).reshape(m * b, d), self.weights.reshape(m * b)


def ready(x: Array, sample_weight: Array | None, *, centred: bool, block: int, mesh: Mesh | None = None) -> Rows:
    """Centre, pad and block `x` `[n, d]`; pure, runs under jit.

    Args:
        x: `[n, d]`, floating point.
        sample_weight: `[n]` or None for ones; rows of weight 0 count as absent, whatever they hold.
        centred: subtract the weighted mean (exact where x is a small step from its mean: Sterbenz 1974).
        block: rows in a block.
        mesh: the devices over which the rows are spread evenly, or None for one.
    """
    weights = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
    if mesh is None:
        return Rows(*_ready(x, weights, centred, block, lambda local: local[None]))
    local = jax.shard_map(
        lambda x, weights: _ready(x, weights, centred, block, lambda local: jax.lax.all_gather(local, ROWS)),
        mesh=mesh,
        in_specs=PartitionSpec(ROWS),
        out_specs=SPECS,
        check_vma=False,
    )
    return dataclasses.replace(Rows(*local(x, weights)), mesh=mesh)


def _ready(
    x: Array,
    weights: Array,
    centred: bool,
    block: int,
    gathered: Callable[[Array], Array],
) -> tuple[Array, Array, Array, Array, Array]:
    """The leaves of one device's Rows; `gathered` puts the devices' arrays `[...]` into one, `[devices, ...]`."""
    n, d = x.shape
    mine = jnp.concatenate([jnp.sum(weights)[None], x[jnp.argmax(weights > 0)]])
    every = gathered(mine)  # [devices, 1 + d], the sum of weights and a row that counts
    whole, anchor = jnp.sum(every[:, 0]), every[jnp.argmax(every[:, 0] > 0), 1:]
    x = jnp.where(weights[:, None] > 0, x, anchor[None, :])

    def total(local: Array) -> Array:
        return jnp.sum(gathered(local), axis=0)

    # the mean of differences from a row: no digit is lost to an offset common to all rows
    mean = anchor + total(jnp.sum(weights[:, None] * (x - anchor[None, :]), axis=0)) / whole  # [d]
    centre = mean if centred else jnp.zeros(d, x.dtype)
    x = x - centre[None, :]
    spread = x if centred else x - mean[None, :]
    variance = total(jnp.sum(weights[:, None] * spread**2, axis=0)) / whole  # [d]

    m = -(-n // block)
    b = -(-n // m)  # even blocks: the least padding
    x = jnp.concatenate([x, jnp.broadcast_to(anchor - centre, (m * b - n, d))])
    weights = jnp.pad(weights, (0, m * b - n))
    norms = jnp.sum(x**2, axis=1).reshape(m, b)
    return x.reshape(m, b, d).transpose(0, 2, 1), weights.reshape(m, b), norms, centre, variance


def ready_on_host(
    x: np.ndarray, sample_weight: np.ndarray | None, *, centred: bool, block: int, mesh: Mesh | None = None
) -> Rows:
    """`ready` by numpy, sums in float64: the same Rows, padded to a `bucket`, with no other copy of the data.

    With a mesh the blocks are spread over its devices.
    """
    n, d = x.shape
    devices = 1 if mesh is None else mesh.size
    size = bucket(n)
    m = devices * -(-size // (devices * block))
    b = -(-size // m)
    weights = np.zeros(m * b, x.dtype)
    weights[:n] = 1 if sample_weight is None else sample_weight
    anchor = x[np.argmax(weights[:n] > 0)].astype(np.float64)  # a row that counts
    blocks, norms = np.empty((m, d, b), x.dtype), np.empty((m, b), x.dtype)
    whole = np.sum(weights, dtype=np.float64)

    def tiles(i: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Columns of block i, the rows they hold, those that do not count replaced, and their weights."""
        for begin in range(i * b, min((i + 1) * b, n), tile):
            end = min(begin + tile, (i + 1) * b, n)
            rows, w = x[begin:end], weights[begin:end]
            rows = rows if w.all() else np.where(w[:, None] > 0, rows, anchor.astype(x.dtype))
            yield slice(begin - i * b, end - i * b), rows, w.astype(np.float64)

    def moved(i: int) -> np.ndarray | int:
        return sum(w @ (rows - anchor) for _, rows, w in tiles(i))

    def fill(i: int) -> np.ndarray | int:
        blocks[i] = (anchor.astype(x.dtype) - centre)[:, None]  # where no tile comes
        norms[i] = np.sum((anchor.astype(x.dtype) - centre) ** 2)
        spread = 0
        for columns, rows, w in tiles(i):
            moved = rows - centre
            blocks[i, :, columns], norms[i, columns] = moved.T, np.einsum("nd,nd->n", moved, moved)
            spread = spread + w @ (rows - mean) ** 2
        return spread

    tile = max(16, TILE // d)

    def quiet(function: Callable[[int], Any]) -> Callable[[int], Any]:
        """Squares that overflow are told by a status, not by numpy; its settings belong to a thread."""

        def quietly(i: int) -> Any:
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                return function(i)

        return quietly

    with concurrent.futures.ThreadPoolExecutor() as pool, np.errstate(over="ignore", invalid="ignore"):
        over = map if m == 1 else pool.map  # numpy lets the others run
        mean = anchor + sum(over(quiet(moved), range(m))) / whole
        centre = (mean if centred else np.zeros(d)).astype(x.dtype)
        variance = sum(over(quiet(fill), range(m))) / whole
    leaves = blocks, weights.reshape(m, b), norms, centre, variance.astype(x.dtype)
    if mesh is None:
        return Rows(*map(jax.device_put, leaves))
    spread = (jax.device_put(leaf, NamedSharding(mesh, spec)) for leaf, spec in zip(leaves, SPECS, strict=True))
    return dataclasses.replace(Rows(*spread), mesh=mesh)


def bucket(n: int) -> int:
    """The size that n rows are padded to: powers of 2 up to 512, then 2, 4 and at last 16 sizes from one to the next.

    Few sizes mean few compiled programs; they are finest where a row more costs most.
    """
    steps = 1 if n <= 2**9 else 2 if n <= 2**12 else 4 if n <= 2**16 else 16
    step = max(1, 2 ** (math.ceil(math.log2(n)) - 1) // steps)
    return max(32, -(-n // step) * step)


def sum_blocks(per_block: Callable[..., Any], rows: Rows, *more: Array) -> Any:
    """Add up `per_block(x [d, b], w [b], norms [b], ...)` over the blocks, one in memory at a time on each device.

    `more` are further arrays of the rows, blocked alike: `[m, b, ...]`.
    """
    blocks = (rows.blocks, rows.weights, rows.norms, *more)
    if rows.mesh is None:
        return _sum_blocks(per_block, *blocks)
    local = jax.shard_map(
        lambda *blocks: _added_up(_sum_blocks(per_block, *blocks)),
        mesh=rows.mesh,
        in_specs=PartitionSpec(ROWS),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return local(*blocks)


def _added_up(tree: Any) -> Any:
    """The sum over devices, in one collective.

    Beware: on a CPU a collective holds a thread until all devices have come to it; two at once, of one device, may hold
    all threads there are, and the others never come.
    """
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, ROWS))


def _sum_blocks(per_block: Callable[..., Any], *blocks: Array) -> Any:
    first = [blocked[0] for blocked in blocks]
    if blocks[0].shape[0] == 1:
        return per_block(*first)
    zeros = zeros_like_result(per_block, *first)

    def add(total: Any, block: tuple[Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(operator.add, total, per_block(*block)), None

    return jax.lax.scan(add, zeros, blocks)[0]


def sum_chunks(per_chunk: Callable[..., Any], *of_rows: Array, size: int = CHUNK) -> Any:
    """Add up `per_chunk(x [c, d], ...)` over chunks of arrays `[n, ...]` as they are, one in memory at a time."""
    n = of_rows[0].shape[0]
    whole = n // size
    if whole == 0 or n == size:
        return per_chunk(*of_rows)
    rest = (leaf[whole * size :] for leaf in of_rows)
    first = per_chunk(*rest) if n % size else zeros_like_result(per_chunk, *(leaf[:size] for leaf in of_rows))

    def add(total: Any, i: Array) -> tuple[Any, None]:
        chunk = (jax.lax.dynamic_slice_in_dim(leaf, i * size, size) for leaf in of_rows)
        return jax.tree.map(operator.add, total, per_chunk(*chunk)), None

    return jax.lax.scan(add, first, jnp.arange(whole))[0]


def blocked(of_rows: Array | np.ndarray, rows: Rows) -> Array:
    """An array of the rows `[n, ...]` cut up as `made_ready` cuts them, `[m, b, ...]`, padded with zeros."""
    m, b = rows.weights.shape
    devices = 1 if rows.mesh is None else rows.mesh.size
    n, *shape = of_rows.shape
    by_device = of_rows.reshape(devices, n // devices, *shape)
    padding = [(0, 0), (0, m * b // devices - n // devices)] + [(0, 0)] * len(shape)
    pad = jnp.pad if isinstance(of_rows, jax.Array) else np.pad
    return jax.device_put(pad(by_device, padding).reshape(m, b, *shape))


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


def map_host_rows(per_chunk: Callable[[np.ndarray], Array], x: np.ndarray) -> Array:
    """Apply a compiled function of rows `[c, d] -> [c, ...]` to `x` `[n, d]` on the host, in chunks of few sizes."""
    n = x.shape[0]
    mapped: np.ndarray | None = None
    for begin in range(0, n, CHUNK):
        chunk = x[begin : begin + CHUNK]
        held = chunk.shape[0]
        padding = np.broadcast_to(chunk[0], (min(CHUNK, bucket(held)) - held, x.shape[1]))
        found = np.asarray(per_chunk(np.concatenate([chunk, padding]) if len(padding) else chunk))
        if mapped is None:
            mapped = np.empty((n, *found.shape[1:]), found.dtype)
        mapped[begin : begin + held] = found[:held]
    return jax.device_put(mapped)


def map_spread_rows(per_device: Callable[[Array], Array], x: Array, mesh: Mesh) -> Array:
    """Apply a function of rows `[c, d] -> [c, ...]` to `x` `[n, d]` spread over devices, each to its own."""
    rows = PartitionSpec(ROWS)
    return jax.shard_map(per_device, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(x)


def block_size(shape: tuple[int, ...], row_floats: int, dtype: Any, *, chunk_size: int | None = None) -> int:
    """Rows in a block of x `[n, d]`: `chunk_size` if given, else as many as keep what a pass makes of them in cache.

    That is `row_floats` numbers a row in the core's own cache, and the rows themselves in the one that cores share.
    """
    n, d = shape
    if chunk_size is not None:
        return min(n, as_count("chunk_size", chunk_size))
    platform = jax.default_backend()
    own, shared = CACHE_BYTES.get(platform, CACHE_BYTES_ELSEWHERE)
    rows = min(own // row_floats, shared // d) // jnp.dtype(dtype).itemsize
    rows = 2 ** int(math.log2(max(1, rows)))
    return min(n, max(MIN_BLOCK, min(rows, MAX_BLOCK) if platform in CACHE_BYTES else rows))


def shard(x: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[Array, Array]:
    """Spread rows evenly over all devices: `x` `[n, d]` and weights `[n]`, padded with rows of weight 0.

    What is spread is used as it lies, by every function that takes x: each device passes over its own rows, and only the
    statistics travel.

    Args:
        x: `[n, d]`.
        sample_weight: `[n]`, non-negative; ones if left out.

    Returns:
        The rows `[m, d]` and their weights `[m]`, m the next multiple of the number of devices.

    Example:
        >>> import jax, jaxem
        >>> x, w = jaxem.shard(jaxem.datasets.faithful())
        >>> starts = jaxem.starts(jax.random.key(0), jaxem.Full(), x, 2, 4, sample_weight=w)
        >>> print(f"{jaxem.best(jaxem.fit_restarts(starts, x, w)).log_likelihood:.2f}")
        -1130.26
    """
    data = np.asarray(as_data(x))
    weights = as_weights(sample_weight, data.shape[0], data.dtype)
    weights = np.ones(data.shape[0], data.dtype) if weights is None else np.asarray(weights)
    mesh = mesh_of(jax.devices())
    padding = -data.shape[0] % mesh.size
    data = np.concatenate([data, np.broadcast_to(data[:1], (padding, data.shape[1]))])
    spread = NamedSharding(mesh, PartitionSpec(ROWS))
    return jax.device_put(data, spread), jax.device_put(np.pad(weights, (0, padding)), spread)


def mesh_of(devices: Any) -> Mesh:
    """A mesh of one axis for rows."""
    return Mesh(np.asarray(devices), (ROWS,), axis_types=(AxisType.Auto,))


def mesh_under(x: Any) -> Mesh | None:
    """The devices over which the rows of `x` `[n, d]` are spread, in their order.

    None for one device, if traced, and where the rows cannot lie evenly: then XLA moves them as it sees fit.
    """
    if not isinstance(x, jax.Array) or is_traced(x) or len(x.sharding.device_set) == 1:
        return None
    if x.is_fully_replicated or x.shape[0] % len(x.sharding.device_set):
        return None
    places = x.sharding.devices_indices_map(x.shape)
    return mesh_of(sorted(places, key=lambda device: (places[device][0].start or 0, device.id)))


def gathered(rows: "Rows") -> "Rows":
    """Rows spread over devices as rows of the default one; others as they are.

    By copies: on a CPU the gathering that XLA puts into a program with loops can wait for itself for ever.
    """
    if rows.mesh is None or is_traced(rows):
        return rows
    return dataclasses.replace(jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)), rows), mesh=None)


def on_host(x: Any) -> bool:
    """Whether an array is in the host's memory, with its values known, and not put on a device of somebody's choice."""
    if isinstance(x, np.ndarray):
        return True
    if is_traced(x) or len(x.sharding.device_set) > 1:
        return False
    return all(device.platform == "cpu" and device == jax.local_devices(backend="cpu")[0] for device in x.devices())


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


def settled(result: Any, floats: int) -> Any:
    """`result`, waited for if its largest array of so many numbers may not fit: JAX's fault would come when it is read."""
    return jax.block_until_ready(result) if floats > HUGE else result


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
