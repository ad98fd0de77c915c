"""Rows: data made ready once per fit, so that every pass reads them in the layout it wants.

`as_rows` checks data and makes them ready. It replaces rows of weight 0 by a row that counts (the square of 1e200 is
infinite, and 0 times infinity is NaN), centres the columns that may move, pads with rows of weight 0 and cuts blocks
`[m, d, b]` whose largest arrays stay in cache. `sum_blocks` adds up what each block yields. A `Frame` says what a fit
must know about all rows.

numpy makes data in the host's memory ready and pads them to one of a few sizes (`bucket`), so that a similar number of
rows compiles nothing. JAX makes data on a device, or traced data, ready as they are. Rows that lie on several devices
stay there: each device passes over its own, and the sums are added across (`Rows.mesh`).
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxem.checks import as_components, as_count, as_supported, as_weights, check_start, warn_of_coarse, warn_of_small
from jaxem.devices import ROWS, mesh_under
from jaxem.holes import cut_in_runs
from jaxem.moments import CHUNK, zeros_like_result
from jaxem.observed import leaves_of_observed
from jaxem.primitives import is_traced
from jaxem.threads import run_all

CACHE_BYTES = {"cpu": (2**17, 2**22)}
"""by platform, the most bytes of the largest array that a pass makes from a block (it stays in a core's own cache), and of
the block itself (it stays in the cache that cores share)"""
CACHE_BYTES_ELSEWHERE = (2**26, 2**28)
MIN_BLOCK, MAX_BLOCK, MOST_FLOATS = 512, 4096, 2**25
"""rows in a block on a CPU: smaller blocks cost more in overhead than in work, larger ones are no faster; and the most numbers
of the largest array that a pass makes from a block, for which it may have fewer rows"""
TILE, STRIP = 2**15, 2**18
"""numbers that the host transposes at a time (with more, columns of a block compete for lines of the cache), and those that
a thread is given at a time"""

SECONDS_A_TURN, SECONDS_A_PRODUCT, SLOW_FEATURES, LEAST_SHARE = 1e-4, 1e-9, 4, 0.05
"""rough cost of a turn, and of each product of a row and a parameter with up to so many features; with more, products of
matrices cost less, down to this share. Measured (2 cores, float64): 1.1e-9 in lanes of 6 features, 3e-11 with 32 and more"""

Columns = bool | tuple[int, ...] | Callable[[int], tuple[int, ...]]
"""which columns are centred: all, none, those named or those that a function names given how many there are"""


class Frame(NamedTuple):
    """The place, spread and weight of a set of rows. A fit needs only these and passes over the rows.

    Attributes:
        centre: `[d]`, what was subtracted from the rows; 0 for columns that may not move.
        variance: `[d]`, weighted variance of each feature: the yardstick for collapsed components.
        total_weight: `[]`, sum of the sample weights.
        n: `[]` of int, how many rows count (have positive weight).
    """

    centre: Array
    variance: Array
    total_weight: Array
    n: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Data ready for passes.

    Attributes:
        blocks: `[m, d, b]`, the data less `frame.centre`, one block of b rows after the other.
        weights: `[m, b]`, non-negative; 0 marks padding.
        norms: `[m, b]`, |x|^2 of each row of `blocks`.
        frame: a `Frame`.
        mesh: the devices over which blocks are spread, or None for one; static.
        run: how many rows after each other miss the same values (holes.py); 1 where that is not known. Static.
    """

    blocks: Array
    weights: Array
    norms: Array
    frame: Frame
    mesh: Mesh | None = dataclasses.field(default=None, metadata={"static": True})
    run: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def dtype(self) -> Any:
        """Of the rows."""
        return self.blocks.dtype

    @property
    def size(self) -> int:
        """Numbers in all rows, padding among them."""
        return self.blocks.size

    def as_matrix(self) -> tuple[Array, Array]:
        """The centred and padded rows `[m b, d]`, and their weights `[m b]`."""
        m, d, b = self.blocks.shape
        return self.blocks.transpose(0, 2, 1).reshape(m * b, d), self.weights.reshape(m * b)

    def check_components(self, n_components: Any) -> int:
        """The number of components as an int; a ValueError if it exceeds the number of rows that count."""
        k, n = as_count("n_components", n_components, most=10**18), self.weights.size
        if not is_traced(self.frame.n):
            n = int(np.asarray(self.frame.n))
        return as_components(k, n)


SPECS: Any = (*(PartitionSpec(ROWS),) * 3, Frame(*[cast(Any, PartitionSpec())] * 4))
"""how the leaves of Rows lie on a mesh"""


def as_rows(
    family: Any,
    x: Any,
    sample_weight: ArrayLike | None,
    n_components: int,
    *,
    like: Any = None,
    lanes: int = 1,
    chunk_size: int | None = None,
    centred: Columns | None = None,
    mesh: Mesh | None = None,
    order: np.ndarray | None = None,
    streams: bool = False,
    in_order: bool = False,
) -> Rows:
    """Checked and ready rows for passes under mixtures of a family; Rows are returned as they are.

    Args:
        x: `[n, d]`, or Rows, which carry their own weights.
        n_components: k, by which blocks are cut.
        like: a Mixture; x must have as many columns. The rows get the wider of the two dtypes.
        lanes, chunk_size: how many mixtures a pass works on at once; rows in a block, computed from the shapes by default.
        centred: the columns to centre; by default `family.location`.
        mesh: the devices to spread rows from the host over.
        order: `[n]`, in which rows from the host are to lie.
        streams: whether the caller can pass over a `Source`, which becomes a Stream (source.py).
        in_order: whether the rows must lie in the order of x; else those that miss the same values may lie together.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.
    """
    expected = None if like is None else family.n_features(like.components)
    if is_source(x):
        return _ready_source(family, x, sample_weight, n_components, like, lanes, chunk_size, streams)
    if isinstance(x, Rows):
        return _ready_before(x, sample_weight, expected)
    data = as_supported(family, x, n_components, expected, exact=True)
    dtype: Any = jax.dtypes.canonicalize_dtype(data.dtype)
    dtype = dtype if like is None else jax.dtypes.canonicalize_dtype(jnp.promote_types(dtype, like.log_weights.dtype))
    if data.dtype.itemsize < dtype.itemsize:  # the mixture is wider: so is the centre
        data = data.astype(dtype)
    n, d = data.shape
    weights = as_weights(sample_weight, n, dtype)
    check_start(family, data, weights, like)
    centred, floats = family.location if centred is None else centred, family.row_floats(n_components * lanes, d)
    size_of_block = functools.partial(block_size, row_floats=floats, dtype=dtype, chunk_size=chunk_size)
    if isinstance(data, np.ndarray):
        if data.dtype.itemsize > dtype.itemsize:
            warn_of_coarse(data, dtype)
        if weights is None or isinstance(weights, np.ndarray):
            own = dict[str, Any]({"mesh": mesh, "dtype": dtype, "order": order})
            by_pattern = family.by_pattern and not in_order
            return _ready_from_host(family, data, weights, centred, size_of_block((bucket(n), d)), by_pattern, own)
    return _ready_where_it_lies(data, weights, centred, size_of_block, dtype, bool(family.holes))


def _ready_where_it_lies(
    data: Any, weights: Any, centred: Columns, size_of_block: Callable[[tuple[int, int]], int], dtype: Any, holes: bool
) -> Rows:
    """Rows on a device or traced, or with weights that are."""
    n, d = data.shape
    mesh, offset = mesh_under(data), None
    if isinstance(data, np.ndarray) and data.dtype.itemsize > dtype.itemsize:
        # traced weights: the host moves rows to their medians, as far as the dtype holds these
        offset = np.where(centred_columns(centred, d), np.nanmedian(data, axis=0), 0.0).astype(dtype)
        data, centred = data - offset, False
    data = data.astype(dtype)
    if weights is None and not is_traced(data):  # an argument: XLA would fold constants of this size for long
        weights = jnp.ones_like(data[:, 0])
    block = size_of_block((n if mesh is None else n // mesh.size, d))
    rows = _ready(data, weights, centred, block, mesh, holes)
    return rows if offset is None else dataclasses.replace(rows, frame=rows.frame._replace(centre=jnp.asarray(offset)))


def _ready_from_host(
    family: Any, x: np.ndarray, weights: np.ndarray | None, centred: Columns, block: int, by_pattern: bool, own: Any
) -> Rows:
    if not (family.holes and np.isnan(x).any()):
        rows = ready_on_host(x, weights, centred=centred, block=block, **own)
        return dataclasses.replace(rows, run=rows.blocks.shape[2]) if family.by_pattern else rows
    moved = centred_columns(centred, x.shape[1])
    of_rows, of_frame, run = cut_in_runs(x, weights, moved, block, bucket, by_pattern=by_pattern, **own)
    return dataclasses.replace(_put_on_devices(of_rows, of_frame, own["mesh"]), run=run)


def is_source(x: Any) -> bool:
    """Whether x is a `Source`, which lies above this file."""
    return hasattr(x, "overview") and hasattr(x, "ready")


def _ready_source(
    family: Any, x: Any, sample_weight: Any, k: int, like: Any, lanes: int, chunk_size: Any, streams: bool
) -> Rows:
    if sample_weight is not None:
        raise ValueError(
            "sample_weight was given with a Source, which yields the weights of its rows; give one of the two"
        )
    found = x.ready(family, k, like=like, lanes=lanes, chunk_size=chunk_size)
    if not (streams or isinstance(found, Rows)):
        raise TypeError(
            f"x is a {type(x).__name__} of {found.n_rows} rows, and this function needs them in memory; give some of them, "
            "such as x.sample(100_000)"
        )
    return cast(Rows, found)


def _ready_before(rows: Rows, sample_weight: ArrayLike | None, n_features: int | None) -> Rows:
    """Rows that the user made ready, checked against what is asked of them now."""
    if sample_weight is not None:
        raise ValueError("sample_weight was given with ready Rows, which carry their own; give one of the two")
    d = rows.blocks.shape[1]
    if n_features is not None and d != n_features:
        raise ValueError(
            f"x is ready Rows of {d} columns, the mixture has {n_features}; give the columns it was fitted on"
        )
    return rows


def ready(
    x: Array,
    sample_weight: Array | None,
    *,
    centred: Columns,
    block: int,
    mesh: Mesh | None = None,
    holes: bool = False,
) -> Rows:
    """Centre, pad and block `x` `[n, d]`; pure, runs under jit.

    Args:
        x: `[n, d]`, floating point.
        sample_weight: `[n]` or None for ones; rows of weight 0 count as absent, whatever they hold.
        centred: columns whose weighted mean is subtracted (exact where x is near its mean: Sterbenz 1974).
        block: rows in a block.
        mesh: the devices over which the rows are spread evenly, or None for one.
        holes: whether NaN is a value that was not observed.
    """
    weights = jnp.ones(x.shape[0], x.dtype) if sample_weight is None else sample_weight.astype(x.dtype)
    if mesh is None:
        return Rows(*_ready_leaves(x, weights, centred, block, lambda local: local[None], holes))
    local = jax.shard_map(
        lambda x, weights: _ready_leaves(
            x, weights, centred, block, lambda local: jax.lax.all_gather(local, ROWS), holes
        ),
        mesh=mesh,
        in_specs=PartitionSpec(ROWS),
        out_specs=SPECS,
        check_vma=False,
    )
    return Rows(*local(x, weights), mesh=mesh)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _ready(
    data: Array, weights: Array | None, centred: Columns, block: int, mesh: Mesh | None, holes: bool = False
) -> Rows:
    return ready(data, weights, centred=centred, block=block, mesh=mesh, holes=holes)


def _ready_leaves(
    x: Array, weights: Array, centred: Columns, block: int, gathered: Callable[[Array], Array], holes: bool
) -> tuple[Array, Array, Array, Frame]:
    """The leaves of one device's Rows; `gathered` puts the devices' arrays `[...]` into one, `[devices, ...]`."""
    n, d = x.shape
    if holes:
        *of_rows, place = leaves_of_observed(x, weights, centred_columns(centred, d), block, gathered)
        return of_rows[0], of_rows[1], of_rows[2], Frame(*place)
    counted = jnp.sum(weights > 0)  # in two parts: float32 holds each exactly
    mine = jnp.stack([jnp.sum(weights), *(part.astype(x.dtype) for part in jnp.divmod(counted, 4096))])
    every = gathered(jnp.concatenate([mine, x[jnp.argmax(weights > 0)]]))  # [devices, 3 + d], one collective
    total_weight, anchor = jnp.sum(every[:, 0]), every[jnp.argmax(every[:, 0] > 0), 3:]
    # a row of weight 0 is replaced if its square may overflow; else it stays, so that its weight has its own derivative
    far = jnp.finfo(x.dtype).max.astype(x.dtype) ** 0.25
    stays = (weights > 0) | jnp.all(jnp.abs(x - anchor[None, :]) < far, axis=1)
    x = jnp.where(stays[:, None], x, anchor[None, :])

    def total(local: Array) -> Array:
        return jnp.sum(gathered(local), axis=0)

    # the mean of differences from a row: no digit is lost to an offset common to all rows
    mean = anchor + total(jnp.sum(weights[:, None] * (x - anchor[None, :]), axis=0)) / total_weight  # [d]
    centre = jnp.where(jnp.asarray(centred_columns(centred, d)), mean, 0.0)
    x = x - centre[None, :]
    spread = x - (mean - centre)[None, :]
    variance = total(jnp.sum(weights[:, None] * spread**2, axis=0)) / total_weight  # [d]

    m = -(-n // block)
    b = -(-n // m)  # even blocks: the least padding
    x = jnp.concatenate([x, jnp.broadcast_to(anchor - centre, (m * b - n, d))])
    weights = jnp.pad(weights, (0, m * b - n))
    norms = jnp.sum(x**2, axis=1).reshape(m, b)
    parts = jnp.sum(every[:, 1:3].astype(jnp.int32), axis=0)
    frame = Frame(centre, variance, total_weight, 4096 * parts[0] + parts[1])
    return x.reshape(m, b, d).transpose(0, 2, 1), weights.reshape(m, b), norms, frame


def centred_columns(centred: Columns, d: int) -> np.ndarray:
    """Which of d columns are centred, `[d]` of bool."""
    if isinstance(centred, bool):
        return np.full(d, centred)
    return np.isin(np.arange(d), centred(d) if callable(centred) else centred)


def ready_on_host(
    x: np.ndarray,
    sample_weight: np.ndarray | None,
    *,
    centred: Columns,
    block: int,
    mesh: Mesh | None = None,
    dtype: Any = None,
    order: np.ndarray | None = None,
) -> Rows:
    """Like `ready`, by numpy, with sums in float64. Pads to a `bucket` and makes one copy of the data.

    Rows are centred in float64 and then cast to `dtype`, by default that of `x`. With a mesh the blocks are spread over its
    devices. With an `order` `[n]` the rows lie in that.
    """
    n, d = x.shape
    dtype = x.dtype if dtype is None else np.dtype(dtype)
    devices, size = 1 if mesh is None else mesh.size, bucket(n)
    m = devices * -(-size // (devices * block))
    b = -(-size // m)
    weights = np.zeros(m * b, dtype)
    weights[:n] = 1 if sample_weight is None else sample_weight
    anchor = x[np.argmax(weights[:n] > 0)].astype(np.float64)  # a row that counts
    if order is not None:
        weights[:n] = weights[order]
    blocks, norms = np.empty((m, d, b), dtype), np.empty(m * b, dtype)
    total_weight = np.sum(weights, dtype=np.float64)
    # a tile is some whole blocks or a part of one; a strip, some whole blocks, is what a thread is given at a time
    tile, strip = TILE // (b * d) * b or min(b, max(16, TILE // d)), max(1, STRIP // (b * d)) * b

    def tiles(first: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Where each tile of a strip begins, its rows, with those that do not count replaced, and their weights."""
        for begin, end in _cuts(first, min(first + strip, n), tile, b):
            rows, w = x[begin:end] if order is None else x[order[begin:end]], weights[begin:end]
            yield begin, rows if w.all() else np.where(w[:, None] > 0, rows, anchor.astype(x.dtype)), w.astype(float)

    def difference(begin: int) -> np.ndarray | int:
        """Weighted differences of a strip from the anchor, `[d]`."""
        return sum(w @ (rows - anchor) for _, rows, w in tiles(begin))

    def fill(begin: int, mean: np.ndarray, centre: np.ndarray) -> np.ndarray | int:
        """Write the blocks and norms of a strip; its weighted squares about the mean, `[d]`."""
        squares = 0
        for first, rows, w in tiles(begin):
            moved = (rows - centre).astype(dtype, copy=False)
            _write(blocks, first, moved)
            norms[first : first + len(rows)] = np.einsum("nd,nd->n", moved, moved)
            squares = squares + w @ (rows - mean) ** 2
        return squares

    def over(of_strip: Any) -> Any:
        return sum(run_all([functools.partial(_without_warnings, of_strip, begin) for begin in range(0, n, strip)]))

    mean = anchor + over(difference) / total_weight
    # what is subtracted is what the frame tells, so that the mixture lies where the data lie
    centre = np.where(centred_columns(centred, d), mean, 0.0).astype(dtype).astype(x.dtype)
    padding = (anchor.astype(x.dtype) - centre).astype(dtype)
    blocks[n // b :], norms[n:] = padding[:, None], _without_warnings(np.dot, padding, padding)
    variance = over(functools.partial(fill, mean=mean, centre=centre)) / total_weight
    return _put_on_devices((blocks, weights.reshape(m, b), norms.reshape(m, b)), (centre, variance, total_weight), mesh)


def _put_on_devices(of_rows: tuple[np.ndarray, ...], of_frame: tuple[Any, ...], mesh: Mesh | None) -> Rows:
    """The Rows of leaves on the host, on the default device or spread over a mesh; centre, variance and weight still wide."""
    weights = of_rows[1]
    warn_of_small(of_frame[1], weights.dtype)
    with np.errstate(over="ignore", under="ignore"):
        frame: Any = (*(leaf.astype(weights.dtype) for leaf in of_frame), np.int32(np.count_nonzero(weights)))
    leaves: Any = (*of_rows, Frame(*frame))
    if mesh is None:
        return Rows(*jax.tree.map(jax.device_put, leaves))
    spread = jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), leaves, SPECS)
    return Rows(spread[0], spread[1], spread[2], spread[3], mesh)


def ready_in_frame(
    x: np.ndarray, sample_weight: np.ndarray | None, frame: Frame, block: int, size: int | None = None
) -> Rows:
    """Rows `[n, d]` in a frame that is known, with leaves of numpy, padded to `size`, by default a `bucket`."""
    n, d = x.shape
    size = bucket(n) if size is None else size
    m = -(-size // block)
    b, dtype = -(-size // m), np.dtype(frame.centre.dtype)
    if n > m * b:
        raise ValueError(f"a block has {n} rows, more than the {m * b} that there is room for")
    x = x.astype(np.promote_types(x.dtype, dtype), copy=False)  # the centre is not rounded to whole numbers
    weights = np.zeros(m * b, dtype)
    weights[:n] = 1 if sample_weight is None else sample_weight
    centre, counts = np.asarray(frame.centre).astype(x.dtype), weights[:n] > 0
    blocks = np.empty((m, d, b), dtype)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        padding = (x[np.argmax(counts)] - centre).astype(dtype)  # a row that counts, if there is one
        if not counts.all():
            x = np.where(counts[:, None], x, x[np.argmax(counts)])
        for i in range(m):
            there = x[i * b : (i + 1) * b].T
            np.subtract(there, centre[:, None], out=blocks[i, :, : there.shape[1]], casting="same_kind")
            blocks[i, :, there.shape[1] :] = padding[:, None]
        norms = np.einsum("mdb,mdb->mb", blocks, blocks)
    return Rows(cast(Any, blocks), cast(Any, weights.reshape(m, b)), cast(Any, norms), frame)


def _cuts(begin: int, last: int, tile: int, b: int) -> Iterator[tuple[int, int]]:
    """Tiles of rows from `begin` to `last`; one of less than a block ends where its block does."""
    while begin < last:
        end = min(begin + tile, last, begin + b - begin % b if tile < b else last)
        yield begin, end
        begin = end


def _write(blocks: np.ndarray, first: int, rows: np.ndarray) -> None:
    """Write rows `[t, d]` from place `first` into blocks `[m, d, b]`: some whole blocks, or a part of the last or of one."""
    d, b = blocks.shape[1:]
    i, place, whole = first // b, first % b, len(rows) // b
    blocks[i : i + whole] = rows[: whole * b].reshape(-1, b, d).transpose(0, 2, 1)
    if whole * b < len(rows):
        blocks[i + whole, :, place : place + len(rows) - whole * b] = rows[whole * b :].T


def _without_warnings(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` without numpy's warnings, in any thread; the status reports an overflow."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return function(*args)


def bucket(n: int) -> int:
    """The size that n rows are padded to, at least 32: each doubling has 2 sizes, above 4,096 4, above 65,536 16.

    Few sizes mean few compiled programs. Large sizes lie closer together, because there padding costs most.
    """
    steps = 2 if n <= 2**12 else 4 if n <= 2**16 else 16
    step = max(1, 2 ** (math.ceil(math.log2(n)) - 1) // steps)
    return max(32, -(-n // step) * step)


def turn_work(rows: Any, k: int, lanes: int = 1) -> int:
    """Numbers that a turn of so many lanes touches: rows x features x components x lanes."""
    return rows.size * k * lanes


def turn_seconds(rows: Rows, mixture: Any, lanes: int = 1) -> float:
    """Rough seconds, rather too many, of a turn of so many lanes on a CPU: each row meets each parameter."""
    r = mixture.log_weights.size // mixture.log_weights.shape[-1]  # a batch of r
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(mixture.components)) // r
    share = max(LEAST_SHARE, min(1.0, SLOW_FEATURES / rows.blocks.shape[1]))
    return SECONDS_A_TURN + SECONDS_A_PRODUCT * share * rows.weights.size * parameters * lanes


def sum_blocks(per_block: Callable[..., Any], rows: Rows, *more: Array, part: Any = None) -> Any:
    """Add up `per_block(x [d, b], w [b], norms [b], ...)` over the blocks, one in memory at a time on each device.

    `more` are further arrays of the rows, blocked alike: `[m, b, ...]`. Of rows on one device `part` may name the first
    block to be added and the one after the last.
    """
    blocks = (rows.blocks, rows.weights, rows.norms, *more)
    if rows.mesh is None:
        return _sum_blocks(per_block, *blocks, part=part)
    local = jax.shard_map(
        lambda *blocks: _sum_over_devices(_sum_blocks(per_block, *blocks)),
        mesh=rows.mesh,
        in_specs=PartitionSpec(ROWS),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return local(*blocks)


def _sum_over_devices(tree: Any) -> Any:
    """The sum over devices, in one collective.

    Beware: on a CPU a collective holds a thread until all devices have come to it; two at once, of one device, may hold
    all threads there are, and the others never come.
    """
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, ROWS))


def _sum_blocks(per_block: Callable[..., Any], *blocks: Array, part: Any = None) -> Any:
    first = [blocked[0] for blocked in blocks]
    if blocks[0].shape[0] == 1:
        return per_block(*first)
    zeros = zeros_like_result(per_block, *first)

    def add(total: Any, block: Any) -> tuple[Any, None]:
        return jax.tree.map(operator.add, total, per_block(*block)), None

    if part is None:
        return jax.lax.scan(add, zeros, blocks)[0]

    def add_one(i: Array, total: Any) -> Any:
        return add(total, [jax.lax.dynamic_index_in_dim(blocked, i, keepdims=False) for blocked in blocks])[0]

    return jax.lax.fori_loop(part[0], part[1], add_one, zeros)


def as_blocks(of_rows: Array | np.ndarray, rows: Rows) -> Array:
    """An array of the rows `[n, ...]`, cut as `as_rows` cuts them and padded with zeros, `[m, b, ...]`."""
    m, b = rows.weights.shape
    devices = 1 if rows.mesh is None else rows.mesh.size
    n, *shape = of_rows.shape
    by_device = of_rows.reshape(devices, n // devices, *shape)
    padding = [(0, 0), (0, m * b // devices - n // devices)] + [(0, 0)] * len(shape)
    pad = jnp.pad if isinstance(of_rows, jax.Array) else np.pad
    return jax.device_put(pad(by_device, padding).reshape(m, b, *shape))


def resp_blocks(resp: ArrayLike, x: Any, rows: Rows, n_components: int) -> Array:
    """Responsibilities `[n, k]` of the rows that `x` became, cut and padded alike; a ValueError for another shape.

    Of ready Rows the number that they were made from is not known: n is then between that of the rows that count and the
    padded one.
    """
    found = resp if isinstance(resp, jax.Array) else np.asarray(resp)
    k, most = n_components, rows.weights.size if isinstance(x, Rows) else np.shape(x)[0]
    least = most if not isinstance(x, Rows) or is_traced(rows) else int(np.asarray(rows.frame.n))
    if found.ndim != 2 or found.shape[1] != k or not least <= found.shape[0] <= most:
        n = str(most) if least == most else f"{least} to {most}"
        raise ValueError(f"resp has shape {found.shape}; give [n, k] = ({n}, {k})")
    return as_blocks(found.astype(rows.blocks.dtype), rows)


def map_rows(per_row: Callable[[Array], Any], x: Array, block: int, run: int = 1) -> Any:
    """Apply a function of rows `[b, d] -> [b, ...]` to `x` `[n, d]`, one block in memory at a time, of whole runs."""
    n, d = x.shape
    m = -(-n // block)
    if m == 1:
        return per_row(x)
    b = -(-n // (m * run)) * run
    x = jnp.concatenate([x, jnp.broadcast_to(x[0], (m * b - n, d))])
    mapped = jax.lax.map(per_row, x.reshape(m, b, d))
    return jax.tree.map(lambda leaf: leaf.reshape(m * b, *leaf.shape[2:])[:n], mapped)


def map_host_rows(per_chunk: Callable[[np.ndarray], Array], x: np.ndarray) -> Array:
    """Apply a compiled function of rows `[c, d] -> [c, ...]` to `x` `[n, d]` on the host, in chunks of few sizes, by threads."""
    n = x.shape[0]

    def mapped(begin: int) -> np.ndarray:
        chunk = x[begin : begin + CHUNK]
        held = chunk.shape[0]
        padding = np.broadcast_to(chunk[0], (min(CHUNK, bucket(held)) - held, x.shape[1]))
        return np.asarray(per_chunk(np.concatenate([chunk, padding]) if len(padding) else chunk))[:held]

    if n <= CHUNK:
        return jax.device_put(mapped(0))
    first = mapped(0)
    whole = np.empty((n, *first.shape[1:]), first.dtype)
    whole[:CHUNK] = first

    def fill(begin: int) -> None:
        whole[begin : begin + CHUNK] = mapped(begin)

    run_all([functools.partial(fill, begin) for begin in range(CHUNK, n, CHUNK)])
    return jax.device_put(whole)


def map_spread_rows(per_device: Callable[[Array], Array], x: Array, mesh: Mesh) -> Array:
    """Apply a function of rows `[c, d] -> [c, ...]` to `x` `[n, d]` spread over devices, each to its own."""
    rows = PartitionSpec(ROWS)
    return jax.shard_map(per_device, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(x)


def block_size(shape: tuple[int, ...], row_floats: int, dtype: Any, *, chunk_size: int | None = None) -> int:
    """Rows in a block of x `[n, d]`: `chunk_size` if given, else as many as fit in cache.

    A pass makes `row_floats` numbers for each row, in the core's own cache. The rows lie in the cache that cores share.
    """
    n, d = shape
    if chunk_size is not None:
        return min(n, as_count("chunk_size", chunk_size))
    platform = jax.default_backend()
    own, shared = CACHE_BYTES.get(platform, CACHE_BYTES_ELSEWHERE)
    rows = min(own // row_floats, shared // d) // jnp.dtype(dtype).itemsize
    rows = 2 ** int(math.log2(max(1, rows)))
    least = max(1, min(MIN_BLOCK, MOST_FLOATS // row_floats))
    return min(n, max(least, min(rows, MAX_BLOCK) if platform in CACHE_BYTES else rows))


def on_one_device(rows: Rows) -> Rows:
    """Rows on the default device, if they are spread over several; else the same Rows.

    Copies do it: on a CPU the collective that XLA puts into a program with loops can deadlock.
    """
    if rows.mesh is None or is_traced(rows):
        return rows
    return dataclasses.replace(jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)), rows), mesh=None)
