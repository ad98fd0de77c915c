"""The laws that bind a family, an E-step and an M-step together, as functions; `verify` tries them on any mixture.

The lecture says of the M-step that one can verify it "by taking derivatives and setting them equal to zero". Autodiff
takes them here. With Q(phi; theta) = l-hat, the proxy of phi at the responsibilities of theta, and M the EM map:

    additive     stats of the parts sum to those of the whole; weight 3 = three copies; weight 0 = absent
    tight        Q(theta; theta) = l(theta), and no other responsibilities give a higher elbo        (Neal, Hinton 1998)
    fisher       grad l(theta) = grad_phi Q(phi; theta) at phi = theta                                     (Fisher 1925)
    stationary   grad_phi Q(phi; theta) = 0 at phi = M(theta)                                      (the lecture's words)
    maximal      its Hessian there is negative definite (above 1,000 parameters: in random coordinates and directions)
    unbeaten     no other mixture tried has a higher Q(.; theta)
    step         Gaussians: M(theta) - theta = P(theta) grad l(theta)                              (Xu and Jordan 1996)
    ascent       l(M(theta)) >= l(theta)                                              (Dempster, Laird and Rubin 1977)
                 where the M-step is not exact: l rises from theta towards M(theta), and the laws on its maximum are left out
    rate         d/dtheta grad_phi Q(M(theta); theta) = 0: the Jacobian of M is that of an exact maximiser; at a maximum
                 it is I - inv(I_complete) I_observed                                                          (ibid.)
    maximum      if the given mixture is a fixed point, no direction leads up: the Hessian of l has no positive eigenvalue
    chart        constrain(unconstrain(theta)) = theta; coordinates are finite, also with a dead component
    block        block_stats in blocks = log_prob and suff_stats on the whole; a row of weight 0 may hold 1e200
    equivariant  rows in another order, and for location families x + offset, change nothing
    sample       the score has mean zero over rows drawn from the mixture                     (within 5 standard errors)
    normalised   the density integrates, over a box, to the share of draws in it              (within 5 standard errors)

Each law has a residual `[]`, zero but for rounding (for `maximal` and `maximum` the largest eigenvalue); a function gives
those of the laws that share their work. All but `maximum` hold at any mixture, so they are tried away from optima.
Gradients are measured in their own scale: coordinate j in units of sqrt(n |d^2 Q / d phi_j^2|). A prior adds its
logarithm to l and to Q.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem import kept
from jaxem.checks import as_components, as_mixture, as_supported, check_from_host
from jaxem.display import readable, report_card
from jaxem.em import chart_map, e_step, elbo, m_step, objective, proxy, stats_of
from jaxem.families.base import Family
from jaxem.families.diagonal import Diagonal
from jaxem.families.gaussian import Spherical
from jaxem.families.matrices import Full
from jaxem.families.tied import Tied
from jaxem.holes import moments_of_observed
from jaxem.mixture import Mixture
from jaxem.primitives import dot, normalise, weighted_sum
from jaxem.priors import Prior
from jaxem.program import BRISK, HASTY, Program
from jaxem.rows import as_rows, centred_columns, is_source
from jaxem.saddles import largest_curvature
from jaxem.source import Source
from jaxem.stats import Stats

MAX_ROWS = 10_000
"""rows `verify` looks at; of more it takes a seeded sample"""
MAX_DENSE = 1_000
"""parameters up to which the whole Hessian is taken; beyond, that of randomly chosen coordinates"""
DRAWS, BATCHES, BOX_DRAWS, NODES = 8_000, 200, 50_000, 40
BOX_SHARE = 0.3
"""share of draws that the box of the law `normalised` should hold, above two columns"""
STANDARD_ERRORS = 5.0
FLAT_SLOPE = 1e-2
"""slope of the mean log-likelihood, in units of one row's standard errors, below which a mixture is taken for a fixed point"""


class Law(NamedTuple):
    """One law's verdict: it holds if `residual <= tolerance` (NaN never is)."""

    name: str
    residual: float
    tolerance: float
    reason: str = ""  # where the residual is not finite: what the family does wrong

    @property
    def ok(self) -> bool:
        """Whether the law holds."""
        return bool(self.residual <= self.tolerance)


@readable(report_card)
@dataclasses.dataclass(frozen=True)
class Report:
    """What `verify` found. Printable; `ok` is whether every law holds.

    Attributes:
        laws: each law's residual, tolerance and verdict.
        notes: what was sampled or could not be tried.
    """

    laws: tuple[Law, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every law that was tried holds."""
        return all(law.ok for law in self.laws)


def verify(mixture: Mixture, x: ArrayLike | Source, *, prior: Prior | None = None, seed: int = 0) -> Report:
    """Try the laws on a mixture and data, in float64: does its family's mathematics fit together?

    The laws are tried at the given mixture displaced by random responsibilities, with random row weights, some zero.
    Not a test of fit: a poor mixture passes, a family with a wrong M-step, density or statistic does not.

    Args:
        mixture: any Mixture, of a family of your own too.
        x: `[n, d]`, or a `Source`; of more than 10,000 rows a sample is taken, and the report says so.
        prior: that of the fit, if it had one.
        seed: of the random choices.

    Raises:
        ValueError: if x does not suit the mixture.

    Example:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.faithful()
        >>> starts = jaxem.starts(jax.random.key(0), jaxem.Full(), x, n_components=2, n_restarts=1)
        >>> jaxem.verify(jaxem.best(jaxem.fit_restarts(starts, x)).mixture, x).ok
        True
    """
    check_from_host("verify", mixture, x, prior, instead="call it outside")
    trial = Trial.draw(as_mixture(mixture), x, prior, seed)
    with jax.enable_x64(True):
        residuals = {name: float(value) for name, value in _all_laws(*trial.arguments).items()}
        lost = not np.all(np.isfinite([*residuals.values()]))
        reasons = _reasons(*trial.arguments[2:5]) if lost else {}
    laws = (
        Law(name, residual, TOLERANCES[name], "" if np.isfinite(residual) else reasons.get(name, reasons.get("", "")))
        for name, residual in ((name, residuals[name]) for name in TOLERANCES if name in residuals)
    )
    return Report(tuple(laws), trial.notes)


def compile_verify(mixture: Mixture, x: ArrayLike, *, prior: Prior | None = None) -> threading.Thread:
    """Compile in the background what `verify` runs for mixtures and data of these shapes: the thread that does it."""
    trial = Trial.draw(mixture, x, prior, 0)
    with jax.enable_x64(True):
        return _all_laws.compile_ahead(*trial.arguments)


class Trial(NamedTuple):
    """One trial of the laws: arguments of `_try_all`, and what the report should mention."""

    arguments: tuple[Any, ...]
    notes: tuple[str, ...]

    @classmethod
    def draw(cls, mixture: Mixture, x: ArrayLike | Source, prior: Prior | None, seed: int) -> "Trial":
        """Check and sample the data, draw the random numbers, and find out which laws can be tried."""
        family = mixture.family
        rng, notes, p = np.random.default_rng(seed), list[str](), mixture.n_parameters
        most = MAX_ROWS if p <= MAX_DENSE else MAX_ROWS // 5
        given: Any = x
        if is_source(x):
            source, given = given, given.sample(most)
            name, n = type(source).__name__, source.overview().moments.n
            notes.append(f"tried on {len(given)} of {n} rows, drawn from the {name}")
        with jax.enable_x64(True):
            data = np.asarray(
                as_supported(family, given, mixture.n_components, family.n_features(mixture.components)), np.float64
            )
        as_components(mixture.n_components, data.shape[0])
        if data.shape[0] > most:
            notes.append(f"tried on {most} of {data.shape[0]} rows, drawn with seed {seed}")
            data = data[np.sort(rng.choice(data.shape[0], most, replace=False))]
        coordinates = np.arange(p)
        if p > MAX_DENSE:
            coordinates = np.sort(rng.choice(p, max(16, 64_000 // p), replace=False))
            notes.append(f"gradients and Hessian of {coordinates.size} of {p} coordinates, drawn with seed {seed}")
        wide, prior = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (mixture, prior))
        if family.location:  # the laws speak of formulas, not of what is left of digits far from the origin
            mean, _ = moments_of_observed(data, np.ones(len(data)))
            centre = np.where(centred_columns(family.location, data.shape[1]), mean, 0.0)
            with jax.enable_x64(True):
                data, wide = data - centre, wide.shift(-centre)
                prior = None if prior is None else prior.shift(cast(Array, -centre))
        chance = Chance.draw(rng, data.shape[0], mixture.n_components, coordinates.size, p)
        # components that may change places are tried alone
        k = 1 if family.interchangeable else mixture.n_components
        draws, density = _faults(family, data.shape[1], k)
        if not family.exact:
            notes.append(
                "stationary, maximal, unbeaten, rate: not promised by this family, whose step only leads upwards"
            )
        if draws is not None:
            notes.append(f"sample: not tried, the family does not draw ({draws})")
        if density is not None:
            notes.append(f"normalised: not tried, the family cannot be fitted to these columns ({density})")
        arguments = (draws is None, density is None, wide, data, chance, coordinates, prior)
        return cls(arguments, tuple(notes))


@functools.lru_cache(maxsize=128)
def _faults(family: Family, d: int, k: int) -> tuple[str | None, str | None]:
    """Why a family cannot draw rows of d columns, and why not be fitted to one or two and draw them; None if it can."""

    def draw(x: Array) -> Array:
        return family.sample(jax.random.key(0), family.init(x, k, None), jnp.zeros(2, int))

    def fault(function: Callable[[Array], Any]) -> str | None:
        try:
            with jax.enable_x64(True):
                jax.eval_shape(function, jax.ShapeDtypeStruct((4, d), np.float64))
        except (ValueError, TypeError, NotImplementedError) as error:
            return str(error) or type(error).__name__
        return None

    def both() -> tuple[str | None, str | None]:
        return fault(draw), fault(lambda x: _fitted_and_drawn(family, x, k, jax.random.key(0)))

    return cast(tuple[str | None, str | None], kept.fact(["faults", family, d, k], both))


TOLERANCES = {
    "additive": 1e-9,
    "tight": 1e-10,
    "fisher": 1e-8,
    "stationary": 1e-8,
    "maximal": -1e-12,
    "unbeaten": 1e-11,
    "step": 1e-7,
    "ascent": 1e-12,
    "rate": 1e-7,
    "maximum": 1e-6,
    "chart": 1e-8,
    "block": 1e-9,
    "equivariant": 1e-9,
    "sample": STANDARD_ERRORS,
    "normalised": STANDARD_ERRORS,
}
"""residuals that float64 rounding may leave; broken formulas leave 1e-4 and more (tests/mutants.py)"""


class Chance(NamedTuple):
    """The random numbers of one report, drawn on the host: random generators are slow to compile."""

    weight: Array  # [n], row weights, zero in every fifth row
    jolts: Array  # [2, n], factors of the weights
    noise: Array  # [3, n, k], responsibilities
    span: Array  # [c], a direction in the chosen coordinates
    directions: Array  # [4, p], directions in all
    key: Array  # [2], data of the key for `Family.sample`

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, k: int, c: int, p: int) -> "Chance":
        """Numbers for n rows, k components and c of p coordinates."""
        weight = np.where(np.arange(n) % 5 == 4, 0.0, rng.uniform(0.5, 1.5, n))
        key = np.array([0, rng.integers(2**31)], np.uint32)
        jolts, noise = rng.exponential(size=(2, n)), rng.dirichlet(np.ones(k), (3, n))
        span, directions = rng.normal(size=c), rng.normal(size=(4, p))
        return cls(*(cast(Array, drawn) for drawn in (weight, jolts, noise, span, directions, key)))


def _try_all(
    draws: bool,
    density: bool,
    mixture: Mixture,
    x: Array,
    chance: Chance,
    coordinates: Array,
    prior: Prior | None,
) -> dict[str, Array]:
    """The residuals of all laws, in one program; those of `sample` and `normalised` if the family lets them be tried."""
    weight, key = chance.weight, jax.random.wrap_key_data(chance.key)
    theta, other = _displace_twice(mixture, x, chance, prior)
    k = 1 if mixture.family.interchangeable else mixture.n_components
    return {
        **of_derivatives(theta, x, weight, chance, coordinates, prior),
        **of_stats(theta, x, weight, prior),
        **of_bounds(theta, x, weight, chance.noise[2], [mixture, other], prior),
        **of_maximum(mixture, x, chance.directions[0], prior),
        **(of_draws(theta, key, coordinates) if draws else {}),
        **(of_density(mixture.family, x, k, key) if density else {}),
    }


def _work(draws: bool, density: bool, mixture: Mixture, x: Any, *_: Any) -> int:
    return x.size * mixture.n_components * mixture.n_parameters


_all_laws = Program(_try_all, (0, 1), work=_work, small=HASTY, large=BRISK, nan_is_data=True)


def _displace_twice(mixture: Mixture, x: Array, chance: Chance, prior: Prior | None) -> tuple[Mixture, Mixture]:
    def once(drawn: tuple[Array, Array]) -> Mixture:
        return displace(mixture, x, chance.weight, *drawn, prior)

    pair = jax.lax.map(once, (chance.jolts, chance.noise[:2]))
    return pair[0], pair[1]


def _reasons(mixture: Mixture, x: Array, chance: Chance) -> dict[str, str]:
    """Which method of the family gives numbers that are not finite, in words: by the law that it breaks, "" for all others."""
    found: dict[str, str] = {}
    mixture, x, chance = jax.tree.map(jnp.asarray, (mixture, x, chance))
    for theta in (mixture, _displace_twice(mixture, x, chance, None)[0]):
        family, components, resp = theta.family, theta.components, theta.responsibilities(x) * chance.weight[:, None]
        dead = resp.at[:, 0].set(0.0)
        free = theta.unconstrain()
        for law, what, value in (
            ("", "the mixture holds", components),
            ("", "log_prob gives", jnp.maximum(family.log_prob(components, x), jnp.finfo(x.dtype).min)),
            ("", "suff_stats gives", family.suff_stats(components, x, resp)),
            ("", "m_step gives", m_step(theta, stats_of(theta, x, resp)).components),
            ("chart", "m_step gives", m_step(theta, stats_of(theta, x, dead)).components),
            ("", "unconstrain gives", free),
            ("chart", "unconstrain gives", m_step(theta, stats_of(theta, x, dead)).unconstrain()),
            ("", "constrain(unconstrain) gives", theta.constrain(free).components),
            (
                "",
                "log_prob has derivatives that are",
                jax.grad(lambda at, of=theta: of.constrain(at).log_prob(x).sum())(free),
            ),
            ("sample", "sample gives", theta.sample(jax.random.wrap_key_data(chance.key), BATCHES)[0]),
        ):
            numbers = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(value)])
            if not np.isfinite(numbers).all():
                kind = "NaN" if np.isnan(numbers).any() else "infinity"
                found.setdefault(law, f"{what} {kind}{' for a component without rows' if law == 'chart' else ''}")
    return found


# -- the laws, by what they need -----------------------------------------------------------------------------------------


@jax.jit
def of_stats(mixture: Mixture, x: Array, sample_weight: Array, prior: Prior | None = None) -> dict[str, Array]:
    """The laws `additive`, `block`, `equivariant`, `ascent` and `chart`, by passes in three blocks over variants of the rows.

    `sample_weight` must be zero in every fifth row (index 4, 9, ...) and nowhere else.
    """
    family, n = mixture.family, x.shape[0]
    present = np.arange(n) % 5 != 4
    first = jnp.asarray(np.arange(n) < (n + 1) // 2)
    offset = jnp.where(centred_columns(family.location, x.shape[1]), 3.0 * jnp.nanmax(jnp.abs(x), axis=0) + 1e-3, 0.0)
    moved = mixture.shift(offset) if family.location else mixture

    composed = _compose(mixture, x[present], sample_weight[present])
    new = m_step(mixture, composed, prior)
    variants = [
        (mixture, x, sample_weight),
        (mixture, x, jnp.where(first, sample_weight, 0.0)),
        (mixture, x, jnp.where(first, 0.0, sample_weight)),
        (mixture, x, 3.0 * sample_weight),
        (mixture, jnp.where(present[:, None], x, 1e200), sample_weight),
        (mixture, x[::-1], sample_weight[::-1]),
        (moved, x + offset[None, :], sample_weight),
        (new, x, sample_weight),
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variants)
    passes = jax.lax.map(lambda variant: e_step(*variant, chunk_size=max(1, n // 3)), stacked)
    whole, left, right, thrice, wild, reverse, shifted, after = (
        jax.tree.map(lambda leaf, i=i: leaf[i], passes) for i in range(len(variants))
    )
    before, later = objective(mixture, whole, prior), objective(new, after, prior)
    fall = (before - later) / scale(later, sample_weight)
    if not mixture.family.exact:  # its step may be too long, and leads upwards all the same

        def along(part: Array) -> Array:
            there = mixture.constrain(mixture.unconstrain() + part * (new.unconstrain() - mixture.unconstrain()))
            return objective(there, e_step(there, x, sample_weight), prior)

        fall = -jax.jvp(along, (jnp.zeros_like(fall),), (jnp.ones_like(fall),))[1] / scale(before, sample_weight)
    return {
        "additive": _largest(
            [difference(left + right, whole), difference(thrice, jax.tree.map(lambda leaf: 3.0 * leaf, whole))]
        ),
        "block": _largest([difference(fused, composed) for fused in (whole, wild)]),
        "equivariant": _largest([difference(reverse, whole), difference(shifted, whole)]),
        "ascent": fall,
        "chart": _chart(mixture, x, sample_weight),
    }


@jax.jit
def of_bounds(
    mixture: Mixture, x: Array, sample_weight: Array, noise: Array, others: list[Mixture], prior: Prior | None = None
) -> dict[str, Array]:
    """The laws `tight` and `unbeaten`, by the proxy of several mixtures at the responsibilities of one."""
    log_prob = mixture.log_prob(x)
    log_likelihood = weighted_sum(sample_weight, log_prob)
    stats = e_step(mixture, x, sample_weight)
    new = m_step(mixture, stats, prior)
    mixtures = jax.tree.map(lambda *leaves: jnp.stack(leaves), mixture, new, *others)
    bounds = jax.lax.map(lambda other: proxy(other, mixture, x, sample_weight, prior=prior), mixtures)
    log_prior = jnp.zeros((), x.dtype) if prior is None else prior.log_prob(mixture)
    elsewhere = elbo(mixture, x, random_responsibilities(mixture, x, noise), sample_weight)
    unit, unit_of_new = scale(log_likelihood, sample_weight), scale(bounds[1], sample_weight)
    return {
        "tight": _largest(
            [
                jnp.abs(stats.log_likelihood - log_likelihood) / unit,
                jnp.abs(bounds[0] - log_prior - log_likelihood) / unit,
                (elsewhere - log_likelihood) / unit,
            ]
        ),
        **({"unbeaten": jnp.max(jnp.delete(bounds, 1) - bounds[1]) / unit_of_new} if mixture.family.exact else {}),
    }


@jax.jit
def of_derivatives(
    mixture: Mixture, x: Array, sample_weight: Array, chance: Chance, coordinates: Array, prior: Prior | None = None
) -> dict[str, Array]:
    """The laws `fisher`, `stationary`, `maximal`, `rate` and, for Gaussians, `step`.

    `coordinates` `[c]` are those in which the Hessian is taken and gradients are looked at.
    """
    free = mixture.unconstrain()

    def q(phi: Array, theta: Array) -> Array:
        return proxy(mixture.constrain(phi), mixture.constrain(theta), x, sample_weight, prior=prior)

    em = chart_map(mixture, as_rows(mixture.family, x, sample_weight, mixture.n_components, centred=False), prior)
    units = jnp.maximum(jnp.abs(free), 1e-3)
    span = jnp.zeros_like(free).at[coordinates].set(chance.span) * units
    directions = chance.directions * units[None, :]
    top, pushed = jax.jvp(em, (free,), (span,))

    # one derivative of grad_phi Q serves all: at theta itself, along each coordinate at the top, and along theta's path
    def slope(at: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        phi, d_phi, d_theta = at
        return jax.jvp(jax.grad(q), (phi, free), (d_phi, d_theta))

    def column(j: Array) -> Array:
        return jnp.zeros_like(free).at[j].set(1.0)

    still = jnp.zeros_like(free)
    columns = jnp.concatenate([directions, jax.vmap(column)(coordinates)])  # [4 + c, p]
    points = (
        jnp.concatenate([free[None], jnp.broadcast_to(top[None], (columns.shape[0] + 1, top.shape[0]))]),
        jnp.concatenate([still[None], pushed[None], columns]),
        jnp.concatenate([still[None], span[None], jnp.zeros_like(columns)]),
    )
    gradients, changes = jax.lax.map(slope, points)
    at_theta, at_top = gradients[0], gradients[1]
    drift, along, hessian = changes[1], changes[2:6], changes[6:, coordinates]
    bent = jnp.sum(directions * along, axis=1) / jnp.sum(jnp.abs(directions * along), axis=1)

    curvature = jnp.abs(jnp.diagonal(hessian))
    unit = jnp.sqrt(jnp.sum(sample_weight) * jnp.maximum(curvature, 1e-12 * jnp.max(curvature)))
    inverse = jnp.where(curvature > 0, jax.lax.rsqrt(jnp.where(curvature > 0, curvature, 1.0)), 0.0)
    correlation = hessian * inverse[:, None] * inverse[None, :]
    # a coordinate nothing depends on (of a dead component) has no curvature to judge
    correlation = correlation - jnp.diag(jnp.where(curvature > 0, 0.0, 1.0))

    ascent = jax.grad(lambda at: objective(at, e_step(at, x, sample_weight), prior))(mixture)
    by_chart = jax.vjp(mixture.constrain, free)[1](ascent)[0]
    laws = {
        "fisher": jnp.max(jnp.abs((by_chart - at_theta)[coordinates]) / unit),
        "stationary": jnp.max(jnp.abs(at_top[coordinates]) / unit),
        "maximal": jnp.maximum(jnp.linalg.eigvalsh(0.5 * (correlation + correlation.T))[-1], jnp.max(bent)),
        "rate": jnp.max(jnp.abs(drift[coordinates]) / unit),
    }
    family = mixture.family
    if not family.exact:
        return {"fisher": laws["fisher"]}
    one_count = mixture.held is None and (not family.holes or isinstance(family, (Full, Tied)))
    if isinstance(family, (Spherical, Diagonal, Full, Tied)) and prior is None and one_count:
        laws["step"] = _step(mixture, family, ascent, mixture.constrain(top), jnp.sum(sample_weight))
    return laws


@jax.jit
def of_draws(mixture: Mixture, key: Array, coordinates: Array) -> dict[str, Array]:
    """The law `sample`: largest mean of the score over draws, in standard errors, all components drawn alike."""
    k = mixture.n_components
    even = dataclasses.replace(mixture, log_weights=jnp.full(k, -jnp.log(float(k)), mixture.log_weights.dtype))
    free = even.unconstrain()

    def score(i: Array) -> Array:  # of few draws at a time: a sampler may make a matrix for each
        batch, _ = even.sample(jax.random.fold_in(key, i), DRAWS // BATCHES)
        return jax.grad(lambda at: jnp.mean(even.constrain(at).log_prob(batch)))(free)[coordinates]

    scores = jax.lax.map(score, jnp.arange(BATCHES))  # [batches, c]
    error = jnp.std(scores, axis=0, ddof=1) / np.sqrt(BATCHES)
    return {"sample": jnp.max(jnp.abs(jnp.mean(scores, axis=0)) / jnp.where(error > 0, error, 1.0))}


def _step(
    mixture: Mixture, family: Spherical | Diagonal | Full | Tied, ascent: Mixture, new: Mixture, total: Array
) -> Array:
    """M(theta) against theta + P(theta) grad l(theta), `ascent` being grad l in log weights, means and covariances.

    P is (diag p - p p') / n for weights, Sigma_j / N_j for means, 2 / N_j Sigma_j (x) Sigma_j for covariances about the
    *old* means; the M-step centres at the new ones, which takes delta_j delta_j' off. (Xu and Jordan 1996, theorem 1)
    """
    p, old = mixture.weights, mixture.components
    k, d = old.means.shape
    # of l as a function of unnormalised log weights: the gradient is N_j itself, and p_j + (N_j - p_j n) / n = N_j / n
    counts = ascent.log_weights
    weights = p + (counts - p * jnp.sum(counts)) / total
    covariances, slope = old.covariances, ascent.components.covariances
    matrices = family.as_matrices(covariances, k, d)
    delta = dot("kij,kj->ki", matrices, ascent.components.means) / counts[:, None]
    outer = delta[:, :, None] * delta[:, None, :]  # [k, d, d]
    if isinstance(family, Spherical):
        change = 2 / (d * counts) * covariances**2 * slope - jnp.trace(outer, axis1=1, axis2=2) / d
    elif isinstance(family, Diagonal):
        change = 2 / counts[:, None] * covariances**2 * slope - delta**2
    else:
        sandwich = "kij,kjl,klm->kim" if isinstance(family, Full) else "ij,jl,lm->im"
        symmetric = 0.5 * (slope + jnp.swapaxes(slope, -1, -2))
        change = 2 * dot(sandwich, covariances, symmetric, covariances)
        if isinstance(family, Full):
            change = change / counts[:, None, None] - outer
        else:
            change = change / total - dot("k,kij->ij", counts / total, outer)
    return _largest(
        [
            jnp.max(jnp.abs(weights - new.weights)),
            _relative(old.means + delta, new.components.means),
            _relative(covariances + change, new.components.covariances),
        ]
    )


@jax.jit
def of_maximum(mixture: Mixture, x: Array, seed: Array, prior: Prior | None = None) -> dict[str, Array]:
    """The law `maximum`; it holds where the mixture is no fixed point, or has no derivatives (at a bound)."""

    def mean_objective(free: Array) -> Array:
        there = mixture.constrain(free)
        total = jnp.sum(there.log_prob(x)) + (0.0 if prior is None else prior.log_prob(there))
        return total / x.shape[0]

    curvature, slope = largest_curvature(mean_objective, mixture.unconstrain(), mixture.units(), seed)
    return {"maximum": jnp.where((slope < FLAT_SLOPE) & jnp.isfinite(curvature), curvature, 0.0)}


def _chart(mixture: Mixture, x: Array, sample_weight: Array) -> Array:
    """constrain(unconstrain) against the identity; infinite if a mixture with a dead component has no coordinates."""
    residual = difference(mixture.constrain(mixture.unconstrain()), mixture)
    if mixture.n_components == 1:
        return residual
    resp = mixture.responsibilities(x).at[:, 0].set(0.0) * sample_weight[:, None]
    dead = m_step(mixture, stats_of(mixture, x, resp))
    return jnp.where(jnp.all(jnp.isfinite(dead.unconstrain())), residual, jnp.inf)


def _compose(mixture: Mixture, x: Array, sample_weight: Array) -> Stats:
    """The pass as its parts say it, without blocks: log_prob, responsibilities, suff_stats."""
    family, components = mixture.family, mixture.components
    log_prob, resp = normalise(family.log_prob(components, x) + mixture.log_weights[None, :], axis=1)
    stats = stats_of(mixture, x, resp * sample_weight[:, None])
    return dataclasses.replace(stats, log_likelihood=weighted_sum(sample_weight, log_prob))


def of_density(family: Family, x: Array, k: int, key: Array) -> dict[str, Array]:
    """The law `normalised`: catches a wrong constant of the density, which no derivative sees.

    One component is fitted to the data. Its density is integrated over a box in the middle of its own draws and compared
    with the share of other draws in the box, in standard errors. Up to two columns the integral is a sum over nodes, of
    discrete columns over values; above, a mean over random points.
    """
    params, drawn = _fitted_and_drawn(family, x, k, key)

    def density(points: Array) -> Array:
        possible = jnp.all(jnp.broadcast_to(family.support(points), points.shape), axis=1)
        return jnp.where(possible, jnp.exp(family.log_prob(params, points)[:, 0]), 0.0)

    first, second = drawn.reshape(2, BOX_DRAWS, -1)
    d = drawn.shape[1]
    reach = (
        0.67 if d <= 2 else NormalDist().inv_cdf(0.5 + 0.5 * BOX_SHARE ** (1 / d))
    )  # of a Gaussian the middle half, or so
    middle, half = jnp.mean(first, axis=0), reach * jnp.std(first, axis=0)
    low, high = middle - half, middle + half  # [d]
    discrete = jnp.all(drawn == jnp.round(drawn), axis=0)  # [d]
    values = jnp.floor(low)[:, None] + jnp.arange(NODES)[None, :]  # [d, nodes]
    low = jnp.where(discrete, values[:, 0], low)
    high = jnp.where(discrete, jnp.minimum(jnp.ceil(high), values[:, -1]), high)
    inside = jnp.mean(jnp.all((second >= low[None, :]) & (second <= high[None, :]), axis=1))
    variance = jnp.maximum(inside * (1 - inside), 1 / BOX_DRAWS) / BOX_DRAWS
    if d <= 2:
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        continuous = low[:, None] + half[:, None] * (nodes[None, :] + 1)
        axes = jnp.where(discrete[:, None], values, continuous)
        shares = jnp.where(discrete[:, None], values <= high[:, None], half[:, None] * weights[None, :])
        points = jnp.stack([axis.ravel() for axis in jnp.meshgrid(*axes, indexing="ij")], axis=1)
        share = functools.reduce(jnp.multiply, jnp.meshgrid(*shares, indexing="ij")).ravel()
        integral = jnp.sum(jnp.where(share > 0, share * density(points), 0.0))
    else:
        uniform = jax.random.uniform(jax.random.fold_in(key, 1), (BOX_DRAWS, d), drawn.dtype)
        width = jnp.where(discrete, high - low + 1, high - low)
        steps = uniform * width[None, :]
        points = low[None, :] + jnp.where(discrete[None, :], jnp.floor(steps), steps)
        of_points = jnp.prod(width) * density(points)
        integral = jnp.mean(of_points)
        variance = variance + jnp.var(of_points) / BOX_DRAWS
    return {"normalised": jnp.abs(integral - inside) / jnp.sqrt(variance)}


def _fitted_and_drawn(family: Family, x: Array | np.ndarray, k: int, key: Array) -> tuple[Any, Array]:
    """A component fitted to two columns of `x`, or to all if the family is made for all, and rows drawn from it."""

    def fitted_and_drawn(x: Array) -> tuple[Any, Array]:
        params = family.init(x, k, None)
        drawn = family.sample(key, params, jnp.zeros(2 * BOX_DRAWS, int))
        family.log_prob(params, drawn[:2])
        return params, drawn

    x = jnp.asarray(x)
    try:
        # JAX clamps an index out of bounds in silence: a family made for more columns draws more than it was given
        any_columns = jax.eval_shape(fitted_and_drawn, x[:, :2])[1].shape[1] == min(2, x.shape[1])
    except (ValueError, TypeError, IndexError, NotImplementedError):
        any_columns = False
    return fitted_and_drawn(x[:, :2] if any_columns else x)


# -- what they share -----------------------------------------------------------------------------------------------------


def displace(
    mixture: Mixture, x: Array, sample_weight: Array, jolt: Array, noise: Array, prior: Prior | None = None
) -> Mixture:
    """A mixture elsewhere, in the data's own scale: an M-step from responsibilities and weights part random."""
    resp = random_responsibilities(mixture, x, noise) * (sample_weight * jolt)[:, None]
    return m_step(mixture, stats_of(mixture, x, resp), prior)


def random_responsibilities(mixture: Mixture, x: Array, noise: Array) -> Array:
    """Responsibilities `[n, k]`, three tenths of each row those of `noise` `[n, k]`."""
    return 0.7 * mixture.responsibilities(x) + 0.3 * noise


def scale(value: Array, sample_weight: Array) -> Array:
    """What a sum over rows is measured in: its size, or one per unit of weight if that is more."""
    return jnp.abs(value) + jnp.sum(sample_weight)


def difference(a: Any, b: Any) -> Array:
    """Largest difference between the leaves of two pytrees, relative to the largest entry of the leaf."""
    return _largest([_relative(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)])


def _relative(a: Array, b: Array) -> Array:
    # equal infinities (log weights of dead components) do not differ
    apart = jnp.where(a == b, 0.0, jnp.abs(a - b))
    return jnp.max(apart, initial=0.0) / jnp.maximum(jnp.max(jnp.abs(b), initial=0.0), 1e-300)


def _largest(residuals: list[Array]) -> Array:
    return jnp.max(jnp.stack(residuals))
