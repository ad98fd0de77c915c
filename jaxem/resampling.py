"""Resampling: errors of an estimate by fitting it again to replicas of the data.

Every refit begins at the estimate, so that components keep their places and a few turns are enough. All refits are lanes of
one queue (replicas.py says how replicas are made). The standard error is the standard deviation over the refits, an
interval lies between their quantiles (Efron and Tibshirani 1993, chapters 6 and 13).
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.accelerate import hybrid
from jaxem.checks import as_count, as_key, check_from_host
from jaxem.display import bootstrap_card, picture, readable
from jaxem.families.base import Family
from jaxem.holding import restore
from jaxem.inference import Parameters, cautions_of_a_step, flatten, given, unflatten, warn_of
from jaxem.journal import journal_at
from jaxem.lanes import Settings, run_by_threads
from jaxem.loop import MAX_TURNS, Result, as_options
from jaxem.mixture import Mixture
from jaxem.primitives import take
from jaxem.priors import Prior
from jaxem.progress import watched
from jaxem.replicas import KINDS, Replicas, one_by_one, replicas_at_once, replicas_of
from jaxem.rows import Rows
from jaxem.stopping import RemainingGainBelow, Status, StoppingRule, has_failed

LANES = 64
"""refits that climb at once in one queue"""
REMAINING = 1e-5
"""nats that a refit may leave to gain, by default: far less than its error is worth"""
MAX_ITER = 500
"""turns that a refit makes at most, by default"""


@readable(bootstrap_card)
class Bootstrap(NamedTuple):
    """Refits to replicas of the data.

    Attributes:
        estimate: `Parameters` of the mixture that the refits began at.
        standard_error: standard deviations over the refits.
        replicates: the mixtures of the refits that did not fail, leaves `[r, ...]`.
        status: `[n_replicates]`, of each refit a `Status`.
        failed: how many refits ended at no usable mixture; they are left out.
        kind: how the replicas were made.
        family: the kind of component.
    """

    estimate: Parameters
    standard_error: Parameters
    replicates: Mixture
    status: np.ndarray
    failed: int
    kind: str
    family: Family

    def interval(self, level: float = 0.95) -> tuple[Parameters, Parameters]:
        """Quantiles of the refits between which the part `level` of them lies: the lower and the upper end."""
        if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0.0 < level < 1.0:
            raise ValueError(f"level = {level!r}; give a probability between 0 and 1, such as 0.95")
        one = take(self.replicates, 0)
        values = np.asarray(_flat(self.replicates), np.float64)
        ends = np.quantile(values, [0.5 - 0.5 * level, 0.5 + 0.5 * level], axis=0)
        lower, upper = (Parameters(*unflatten(one, end.astype(one.log_weights.dtype))) for end in ends)
        return lower, upper

    def plot(self, **options: Any) -> Any:
        """`jaxem.plots.plot_intervals`; returns the axes of its panels, `[p]`."""
        return picture("plot_intervals", self, **options)


class BootstrapProgress(NamedTuple):
    """How far a bootstrap is; its callback receives it.

    Attributes:
        finished: replicas that are done.
        total: replicas in all.
        failed: of those, how many ended at no usable mixture.
    """

    finished: int
    total: int
    failed: int

    @property
    def shown(self) -> tuple[int, int, str]:
        """What a bar shows."""
        return self.finished, self.total, f"{self.finished} of {self.total}, {self.failed} failed"


def bootstrap(
    key: Array,
    mixture: Mixture,
    x: ArrayLike | Rows,
    sample_weight: ArrayLike | None = None,
    *,
    n_replicates: int = 999,
    kind: str = "weighted",
    prior: Prior | None = None,
    stop: StoppingRule | None = None,
    max_iter: int = MAX_ITER,
    accelerator: Any = hybrid(),
    chunk_size: int | None = None,
    callback: Callable[[BootstrapProgress], None] | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Bootstrap:
    """Fit a mixture again to replicas of its data, each time from itself.

    Args:
        key: a PRNG key, consumed; replica i depends on (key, i) alone.
        mixture: a maximum for these data; a warning says if it is none.
        x: `[n, d]`, or `Rows` made ready before.
        sample_weight: `[n]`, non-negative. Weights count rows: one of weight 3 stands for three.
        n_replicates: replicas to fit to, at least 2.
        kind: "weighted" gives the rows random weights (Dirichlet); "multinomial" draws rows with replacement; "parametric"
            draws them from the mixture.
        prior, stop, max_iter, accelerator, chunk_size, progress, checkpoint: as for `fit`; `RemainingGainBelow(1e-5)` stops.
        callback: called with `BootstrapProgress` now and then; an exception in it, or Ctrl-C, ends the bootstrap.

    Raises:
        ValueError: the argument, the value found and the remedy, in one line.

    Example:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.faithful()
        >>> found = jaxem.search(jax.random.key(0), "full", x, 2).best.mixture
        >>> print(jaxem.bootstrap(jax.random.key(1), found, x).standard_error.components.means[:, 0].round(2))
        [0.03 0.03]
    """
    check_from_host("bootstrap", key, mixture, x, sample_weight, prior, instead="use jax.vmap over jaxem.fit there")
    key, r = as_key(key), as_count("n_replicates", n_replicates, least=2)
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}; choose from {', '.join(KINDS)}")
    mixture, rows, prior = given(mixture, x, sample_weight, prior, chunk_size)
    stop, prior = as_options(mixture.family, rows, stop or RemainingGainBelow(REMAINING), prior, accelerator)
    warn_of(cautions_of_a_step(mixture, rows, prior))
    rows = one_by_one(rows, mixture, mixture.n_components, chunk_size) if kind == "parametric" else rows
    settings = Settings(LANES, as_count("max_iter", max_iter, most=MAX_TURNS), accelerator)
    about = key, mixture, kind, r, prior, stop, settings
    with journal_at(checkpoint, "bootstrap", rows, *about) as journal, watched("bootstrap", progress, callback) as hear:
        mixtures, status = _refits(journal, key, mixture, rows, kind, r, prior, stop, settings, hear)
    good = np.flatnonzero(~has_failed(status))
    if good.size < 2:
        how = Status(int(status[np.argmax(has_failed(status))])).name
        raise ValueError(f"{r - good.size} of {r} refits failed ({how}); give a prior, or fewer components")
    replicates: Mixture = restore(jax.tree.map(lambda leaf: jax.device_put(leaf[good]), mixtures), mixture)
    error = np.std(np.asarray(_flat(replicates), np.float64), axis=0, ddof=1).astype(mixture.log_weights.dtype)
    own, errors = (Parameters(*unflatten(mixture, values)) for values in (flatten(mixture), error))
    return Bootstrap(own, errors, replicates, status, r - good.size, kind, mixture.family)


def _refits(
    journal: Any,
    key: Array,
    mixture: Mixture,
    rows: Rows,
    kind: str,
    r: int,
    prior: Any,
    stop: Any,
    settings: Settings,
    callback: Any,
) -> tuple[Mixture, np.ndarray]:
    """All refits `[r, ...]`, and how each ended `[r]`."""
    failed, results = 0, []
    for index in pieces_of(r, replicas_at_once(rows, kind)):
        replicas = replicas_of(key, index, rows, kind, mixture)
        entry = None if journal is None else journal.entry()
        made = climb_on(copies_of(mixture, len(index)), replicas, prior, stop, settings, entry)
        results.append(_first_of((made.mixture, made.status), int(np.sum(index < r))))
        failed += int(np.sum(has_failed(results[-1][1])))
        if callback is not None:
            callback(BootstrapProgress(sum(len(one[1]) for one in results), r, failed))
    found: tuple[Mixture, np.ndarray] = jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
    return found


def pieces_of(r: int, at_once: int) -> list[np.ndarray]:
    """The numbers below r, and some above to fill the last piece, in pieces of one size."""
    n = -(-r // at_once)
    size = -(-r // n)
    return list(np.arange(n * size).reshape(n, size))


def _first_of(batch: Any, n: int) -> Any:
    """The first n entries of a batch, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:n], batch)


def climb_on(
    mixtures: Mixture, replicas: Replicas, prior: Prior | None, stop: Any, settings: Settings, entry: Any = None
) -> Result:
    """Climbs from mixtures `[r, ...]`, each on its replica."""
    r = mixtures.log_weights.shape[0]
    return run_by_threads(mixtures, replicas, prior, stop, settings._replace(width=min(settings.width, r)), entry=entry)


def copies_of(mixture: Mixture, r: int) -> Mixture:
    """A batch of one mixture r times over, on the host."""
    copies: Mixture = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (r, *np.shape(leaf))), mixture)
    return copies


def _flat(mixtures: Mixture) -> Array:
    """The natural parameters of a batch, `[r, q]`."""
    return jax.vmap(flatten)(mixtures)
