"""What the report's player plays: plain EM from a random start, replayed in one program, as numbers small enough for a page.

A turn t has two halves. The E-step gives rows the responsibilities of theta_t, the M-step makes theta_t+1 of them. For each
turn that is shown we keep theta_t and theta_t+1, the responsibilities of the rows that are drawn, and, at steps s along the
line from theta_t to theta_t+1 = M(theta_t) in the chart,

    theta(s) = theta_t + s (theta_t+1 - theta_t):   l-hat(theta(0)) = l(theta(0)),  l-hat <= l,  argmax_s l-hat = 1.

A page has room for so many numbers, whatever the data. So rows, turns and features are limited, lengths are whole parts of
an axis, and of the responsibilities of a row the largest few are kept, in bytes.
"""

import base64
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import linear_sum_assignment

from jaxem.display import as_moments, has_moments
from jaxem.em import e_step, m_step, proxy
from jaxem.families.student_t import StudentT
from jaxem.init import RandomParameters
from jaxem.loop import Result
from jaxem.mixture import Mixture
from jaxem.program import BRISK, Program
from jaxem.queue import fit_restarts, starts
from jaxem.stopping import has_failed

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#9A8C00", "#6B6B6B")
MOST_CLIMBED, MOST_DRAWN = 2_000, 400
"""rows that the player's EM uses, and rows that it draws, at most"""
MOST_TURNS = 400
"""turns that the climb makes, at most"""
TRIED = ((10**5, 16, MOST_TURNS - 1), (10**7, 8, 250), (math.inf, 4, 100))
"""numbers that a pass touches (rows x components x features squared), and up to so many the starts and turns that are tried"""
LIVELY = 30
"""turns that make a good show"""
MOST_FRAMES, SPARSE_FRAMES, LEAST_FRAMES = 40, 26, 14
"""turns that are shown, if all are; if not; and of many components"""
MOST_KEPT = MOST_FRAMES + 8
"""mixtures that the replay keeps: theta_t and theta_t+1 of each turn that is shown"""
MOST_PLAYED = 60
"""components that the player can show"""
MOST_AXES = 12
"""features that a reader can choose from, at most"""
SHARES = 4
"""responsibilities of a row that the page knows, the largest ones"""
ROOM_FOR_SHARES, ROOM_FOR_SHAPES = 56_000, 42_000
"""bytes of the page that responsibilities (before base64) and parameters may take"""
PARTS = 10_000
"""parts of an axis that lengths are counted in"""
ALONG = np.arange(-6, 20) / 10
"""where l and l-hat are drawn along the line, in EM steps"""


class Climb(NamedTuple):
    """What the player shows."""

    numbers: dict[str, Any]
    rows: int  # that it uses
    drawn: int  # rows
    turns: int
    axes: int  # features to choose from
    is_best: bool  # whether it ends in the fit's optimum
    columns: int  # that the means have


def palette(k: int) -> list[str]:
    """A colour for each component; they repeat after eight."""
    return [COLOURS[j % len(COLOURS)] for j in range(k)]


def climb_of(
    result: Result, values: np.ndarray, features: Sequence[int], names: Sequence[str], seed: int
) -> Climb | str:
    """Plain EM from a random start that ends well and is worth watching; why there is nothing to play, if so.

    Args:
        result: the fit.
        values: `[n, d]`, its rows.
        features: the columns that the player draws first; of those that the means have.
        names: of the d columns.
        seed: of the starts and of the sample of rows.
    """
    mixture = result.mixture
    if not has_moments(mixture.family):
        return f"there are no ellipses for {mixture.family.shown_name}"
    k, d = np.shape(as_moments(mixture.family, mixture.components)[0])  # noisy rows have more columns than the means
    if d == 1 and isinstance(mixture.family, StudentT):
        return "in one column there are only curves of Gaussians"
    if k > MOST_PLAYED:
        return f"{k} components are more than the {MOST_PLAYED} that can be shown"
    rng = np.random.default_rng(seed)
    sampled = values if len(values) <= MOST_CLIMBED else values[np.sort(rng.choice(len(values), MOST_CLIMBED, False))]
    if len(sampled) < k:
        return "there are fewer rows than components"
    whole = len(sampled) == len(values)
    start, turns, is_best = _lively(result, sampled, whole, seed)
    if start is None:
        return "every climb that was tried collapsed" + ("" if whole else f", on a sample of {len(sampled):,} rows")
    sampled = sampled.astype(start.log_weights.dtype)
    frames = _frames(turns + 1, k)
    kept = np.union1d(frames, np.minimum(frames + 1, turns))
    axes = _axes(d, features, len(kept) * k)
    drawn = np.sort(rng.choice(len(sampled), min(_rows(len(frames), k), len(sampled)), False))
    slots = np.full(MOST_TURNS + 1, MOST_KEPT)  # the last place takes what is not kept
    slots[kept] = np.arange(len(kept))
    seen = _replay(start, sampled, sampled[drawn], slots, np.int32(turns + 1), np.int32(len(kept)), np.asarray(axes))
    seen = jax.tree.map(lambda leaf: np.asarray(leaf, float), seen)
    order = _matching_order(mixture, seen.means[len(kept) - 1], axes)
    points = np.asarray(mixture.impute(sampled[drawn]) if np.isnan(sampled[drawn]).any() else sampled[drawn], float)
    lows, spans = _ranges(points[:, axes])
    numbers = {
        "axes": [
            {"name": names[axis], "low": float(f"{low:.12g}"), "span": float(f"{span:.6g}")}
            for axis, low, span in zip(axes, lows.tolist(), spans.tolist(), strict=True)
        ],
        "points": np.rint((points[:, axes] - lows) / spans * PARTS).astype(int).tolist(),
        "palette": palette(k),
        "turns": frames.tolist(),
        "at": np.searchsorted(kept, frames).tolist(),
        "trace": as_lists(seen.trace[: turns + 1], 10),
        **_shares(seen.resp[np.searchsorted(kept, frames)][..., order]),
        **_shapes(seen, order, len(kept), lows, spans),
        **_lines(seen, np.searchsorted(kept, frames)),
    }
    return Climb(numbers, len(sampled), len(drawn), turns, len(axes), is_best, d)


def as_lists(values: np.ndarray, digits: int = 4) -> Any:
    """Nested lists of so many digits, whole numbers without a point; null where not finite."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(one) for one in value]
        if not math.isfinite(value):
            return None
        rounded = float(f"{value:.{digits}g}")
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded

    return short(np.asarray(values, float).tolist())


# -- what is replayed ----------------------------------------------------------------------------------------------------


def _lively(result: Result, sampled: np.ndarray, whole: bool, seed: int) -> tuple[Mixture | None, int, bool]:
    """The start of the climb, its turns, and whether it ends where the fit does (only known of all rows)."""
    mixture = result.mixture
    k, d = mixture.n_components, sampled.shape[1]
    tried, longest = next(row[1:] for row in TRIED if len(sampled) * k * d * d <= row[0])
    begun = starts(jax.random.key(seed), mixture.family, sampled, k, tried, RandomParameters())
    ends = fit_restarts(begun, sampled, max_iter=longest)
    objective, turns = np.asarray(ends.objective, float), np.asarray(ends.n_iter)
    sound = np.isfinite(objective) & ~has_failed(np.asarray(ends.status))
    if not sound.any():
        return None, 0, False
    reached = float(result.objective) if whole else -math.inf
    near = sound & (objective > max(float(objective[sound].max()), reached) - 0.1)
    among = near if near.any() else sound & (objective == objective[sound].max())
    chosen = int(np.argmin(np.where(among, np.abs(np.log((turns + 1) / LIVELY)), np.inf)))
    leaves = [np.asarray(leaf)[chosen] for leaf in jax.tree.leaves(begun)]
    widest = np.result_type(*leaves)  # float32 rows may have starts whose weights are float64
    start = jax.tree.unflatten(jax.tree.structure(begun), [leaf.astype(widest) for leaf in leaves])
    return start, int(turns[chosen]), bool(near.any() and whole)


def _frames(made: int, k: int) -> np.ndarray:
    """The turns that are shown: all, or most of the early ones and the last."""
    most = max(LEAST_FRAMES, round(MOST_FRAMES * min(1, 6 / k)))
    if made <= most:
        return np.arange(made)
    most = min(most, SPARSE_FRAMES)
    return np.unique(np.round(np.geomspace(1, made, most))).astype(int) - 1


def _axes(d: int, features: Sequence[int], shapes: int) -> list[int]:
    """The columns that a reader can choose from, those asked for first: as many as the page has room for."""
    room = ROOM_FOR_SHAPES / shapes - 6  # bytes for each component: a weight, then means, deviations, correlations
    most = max(
        count for count in range(1, MOST_AXES + 1) if count <= 2 or 11 * count + 2.25 * count * (count - 1) < room
    )
    wanted = [axis for axis in dict.fromkeys((*features, *range(d))) if axis < d]
    return wanted[: min(d, most)]


def _rows(frames: int, k: int) -> int:
    """Rows that can be drawn."""
    return min(MOST_DRAWN, ROOM_FOR_SHARES // (frames * 2 * min(k, SHARES)))


class Seen(NamedTuple):
    """What a replay sees of each mixture that it keeps; `log_likelihood` and `proxy` in nats above l(theta_t)."""

    trace: Any  # [MOST_TURNS], log-likelihoods
    weights: Any  # [m, k]
    means: Any  # [m, k, a], of the axes
    covariances: Any  # [m, k, a, a]
    resp: Any  # [m, r, k]
    log_likelihood: Any  # [m, s]
    proxy: Any  # [m, s]


def _replay_of(start: Mixture, x: Array, drawn: Array, slots: Array, made: Array, n_kept: Array, axes: Array) -> Seen:
    """EM from `start`, `made` mixtures, those with a slot kept; and what is seen of the first `n_kept` of these."""

    def turn(t: Array, carry: tuple[Mixture, Mixture, Array]) -> tuple[Mixture, Mixture, Array]:
        mixture, kept, trace = carry
        stats = e_step(mixture, x)
        kept = jax.tree.map(lambda all_of, one: all_of.at[slots[t]].set(one), kept, mixture)
        return m_step(mixture, stats), kept, trace.at[t].set(stats.log_likelihood)

    room = jax.tree.map(lambda leaf: jnp.zeros((MOST_KEPT + 1, *leaf.shape), leaf.dtype), start)
    _, kept, trace = jax.lax.fori_loop(0, made, turn, (start, room, jnp.zeros(MOST_TURNS)))

    def look(i: Array) -> tuple[Any, ...]:
        mixture = jax.tree.map(lambda leaf: leaf[i], kept)
        means, covariances = as_moments(mixture.family, mixture.components)
        shadow = covariances[:, axes][:, :, axes]
        above, below = _along(mixture, x)
        return mixture.weights, means[:, axes], shadow, mixture.responsibilities(drawn), above, below

    def store(i: Array, all_of: Any) -> Any:
        return jax.tree.map(lambda several, one: several.at[i].set(one), all_of, look(i))

    shapes = jax.eval_shape(look, jnp.int32(0))
    room = jax.tree.map(lambda leaf: jnp.zeros((MOST_KEPT, *leaf.shape), leaf.dtype), shapes)
    return Seen(trace, *jax.lax.fori_loop(0, n_kept, store, room))


def _along(mixture: Mixture, x: Array) -> tuple[Array, Array]:
    """l and l-hat at steps `ALONG` from the mixture to the M-step from it, `[s]` each, above l of the mixture."""
    free, stats = mixture.unconstrain(), e_step(mixture, x)
    step = m_step(mixture, stats).unconstrain() - free

    def at(s: Array) -> tuple[Array, Array]:
        there = mixture.constrain(free + s * step)
        base = stats.log_likelihood
        return e_step(there, x).log_likelihood - base, proxy(there, mixture, x) - base

    return jax.lax.map(at, jnp.asarray(ALONG, free.dtype))


_replay = Program(_replay_of, small=BRISK, large=BRISK, nan_is_data=True)


# -- numbers for the page ------------------------------------------------------------------------------------------------


def _matching_order(mixture: Mixture, last: np.ndarray, axes: list[int]) -> np.ndarray:
    """The order of the components of `last`, means `[k, a]`, in which they lie nearest to the mixture's."""
    ours = np.asarray(as_moments(mixture.family, mixture.components)[0], float)[:, axes]
    scale = np.std(np.concatenate([ours, last]), axis=0)
    distance = np.sum(((ours[:, None] - last[None]) / np.where(scale > 0, scale, 1)) ** 2, axis=-1)  # [k, k]
    return linear_sum_assignment(np.nan_to_num(distance, nan=1e9))[1]


def _ranges(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least value of each axis, and how far its values reach from there."""
    lows, highs = points.min(axis=0), points.max(axis=0)
    flat = np.maximum(np.abs(lows) * 1e-6, 1e-12)
    spans = np.where(highs - lows > flat, highs - lows, 2 * flat)
    return np.where(highs - lows > flat, lows, lows - flat), spans


def _shares(resp: np.ndarray) -> dict[str, Any]:
    """The largest responsibilities `[frames, rows, k]` of each row, in 255ths, and whose they are."""
    most = min(resp.shape[-1], SHARES)
    owners = np.argsort(-np.nan_to_num(resp), axis=-1, kind="stable")[..., :most]
    parts = np.rint(255 * np.nan_to_num(np.take_along_axis(resp, owners, axis=-1)))

    def packed(values: np.ndarray) -> str:
        return base64.b64encode(values.astype(np.uint8).tobytes()).decode()

    return {"kept": most, "owners": packed(owners), "shares": packed(np.clip(parts, 0, 255))}


def _shapes(seen: Seen, order: np.ndarray, n_kept: int, lows: np.ndarray, spans: np.ndarray) -> dict[str, Any]:
    """Weights `[m, k]`; means, deviations `[m, k, a]` in parts of the axes; correlations `[m, k, a (a - 1) / 2]` in 1000ths."""
    means, covariances = seen.means[:n_kept, order], seen.covariances[:n_kept, order]
    deviations = np.sqrt(np.maximum(np.diagonal(covariances, axis1=-2, axis2=-1), 0))
    apart = np.maximum(deviations[..., :, None] * deviations[..., None, :], np.finfo(float).tiny)
    first, second = np.triu_indices(len(lows), 1)
    correlations = np.nan_to_num(np.clip(covariances / apart, -1, 1)[..., first, second])
    return {
        "weights": as_lists(seen.weights[:n_kept, order]),
        "means": as_lists(np.rint((means - lows) / spans * PARTS), 9),
        "deviations": as_lists(deviations / spans * PARTS),
        "correlations": np.rint(1000 * correlations).astype(int).tolist(),
    }


def _lines(seen: Seen, at: np.ndarray) -> dict[str, Any]:
    """l and l-hat along the line of each frame, in nats above l(theta_t)."""
    return {
        "along": as_lists(ALONG),
        "log_likelihood": as_lists(seen.log_likelihood[at]),
        "proxy": as_lists(seen.proxy[at]),
    }
