"""Ellipsoidal: mclust's forms of a Gaussian's covariances, of which components share the volume, the shape or the orientation.

    Sigma_j = lambda_j C_j,  C_j = D_j A_j D_j',   |C_j| = 1       (Banfield and Raftery 1993; Celeux and Govaert 1995)

lambda_j is the volume, the diagonal A_j the shape and the rotation D_j the orientation. Three letters say whether components
have an equal one (E) or each its own (V); I is the identity, as orientation: axes that are parallel to the features'. VII,
VVI, EEE, VVV, EII and EEI are Spherical, Diagonal, Tied, Full, TiedSpherical and TiedDiagonal. The other eight are here.

The statistics are those of Full. The M-step has the shares p_j of the rows and the covariances S_j that Full would have, and
minimises sum_j p_j (d log lambda_j + tr(S_j inv(C_j)) / lambda_j). Let s_j `[d]` be the variances along the axes of D_j, the
diagonal of D_j' S_j D_j, and g its geometric mean over the features:

    EVI, EVE, VVE  A_j = s_j / g(s_j);  lambda_j = g(s_j), or sum_j p_j g(s_j) where it is equal
    VEI, VEV       A minimises sum_j p_j log sum_i s_ji / A_i, which is convex in log A;  lambda_j = mean_i s_ji / A_i
    EEV            A = s / g(s), lambda = g(s), s = sum_j p_j s_j
    EVV            C_j = S_j / |S_j|^(1/d), lambda = sum_j p_j |S_j|^(1/d)
    VEE            C minimises sum_j p_j log tr(S_j inv(C)), which is geodesically convex;  lambda_j = tr(S_j inv(C)) / d
    EEV, VEV       D_j has the eigenvectors of S_j, in the order of A
    VVE            D minimises sum_j p_j log g(s_j)               (Flury and Gautschi 1986: common principal components)
    EVE            D minimises sum_j p_j g(s_j)                   (Browne and McNicholas 2014)

Newton's method finds the minima to rounding (newton.py). A common D may have several; the search starts at the old one and at
the eigenvectors of sum_j p_j S_j, and takes the lower end, so the proxy never falls.
"""

import dataclasses
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Family
from jaxem.families.diagonal import Diagonal
from jaxem.families.gaussian import (
    FEW,
    FLAT,
    MIN_EIGENVALUE,
    GaussianParams,
    GaussianStats,
    Prepared,
    Spherical,
)
from jaxem.families.holdable import HoldsMeans
from jaxem.families.matrices import Full
from jaxem.families.movable import Movable
from jaxem.families.tied import Tied, TiedDiagonal, TiedSpherical
from jaxem.linalg import (
    ASYMMETRY,
    from_log_cholesky,
    is_positive_definite,
    log_cholesky,
    log_cholesky_units,
    log_det,
    whitener,
)
from jaxem.names import FORMS
from jaxem.newton import Problem, minimise
from jaxem.primitives import alive, compact, dot, epsilon, positive, tiny
from jaxem.priors import NormalInverseWishart
from jaxem.rotations import align, cayley, cayley_entries, eigenvectors, in_chart, orthonormal, skew
from jaxem.stats import Stats

OTHERS: dict[str, type[Family]] = {
    "VII": Spherical,
    "VVI": Diagonal,
    "EEE": Tied,
    "VVV": Full,
    "EII": TiedSpherical,
    "EEI": TiedDiagonal,
}
"""the forms that are families of their own"""
LETTERS = {"equal": "E", "varying": "V", "identity": "I"}
FULL = Full()


@compact
class EllipsoidalParams(NamedTuple):
    """Means and the parts of the covariances volume * orientation @ shape @ orientation.T.

    Attributes:
        means: `[k, d]`.
        volumes: the d-th roots of the determinants, `[k]`, or `[]` where components share one.
        shapes: variances along the axes, of product 1, `[k, d]`, or `[d]` where components share them. In the forms EVV and
            VEE, where orientation goes with shape, matrices of determinant 1, `[k, d, d]` or `[d, d]`.
        orientations: the axes, columns of orthogonal matrices `[k, d, d]`, or `[d, d]` where components share them. None in
            the forms EVI and VEI, where they are the features', and in EVV and VEE.
    """

    means: Array
    volumes: Array
    shapes: Array
    orientations: Array | None = None


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Ellipsoidal(Movable, HoldsMeans):
    """One of mclust's fourteen forms of a Gaussian, such as `Ellipsoidal("VEV")`.

    The letters are those of volume, shape and orientation: E for equal, V for varying, I for the identity. They may be given
    apart and as words. Where the form is another family, that family is what the call returns: `Ellipsoidal("VVV") == Full()`.
    The others have EllipsoidalParams. (Scrucca et al. 2016, table 3)

    Args:
        volume: "E" or "V", "equal" or "varying"; or all three letters.
        shape: "E", "V" or "I", "equal", "varying" or "identity".
        orientation: likewise.

    Raises:
        ValueError: if there is no such form.

    Example:
        >>> import jaxem
        >>> jaxem.Ellipsoidal("varying", "equal", "varying")
        Ellipsoidal('VEV')
    """

    volume: str
    shape: str
    orientation: str

    location = True
    conjugate = (NormalInverseWishart,)
    holdable, spread = ("means",), ""  # parts of the covariances have no maxima of their own

    def __new__(cls, volume: str, shape: str | None = None, orientation: str | None = None) -> Any:
        form = _form(volume, shape, orientation)
        return OTHERS[form]() if form in OTHERS else super().__new__(cls)

    def __init__(self, volume: str, shape: str | None = None, orientation: str | None = None) -> None:
        for name, letter in zip(("volume", "shape", "orientation"), _form(volume, shape, orientation), strict=True):
            object.__setattr__(self, name, letter)

    def __getnewargs__(self) -> tuple[str, ...]:
        return (self.form,)

    def __repr__(self) -> str:
        return f"Ellipsoidal({self.form!r})"

    @property
    def form(self) -> str:
        """The three letters."""
        return self.volume + self.shape + self.orientation

    @property
    def by_matrices(self) -> bool:
        """Whether shapes are matrices, which hold the orientations too."""
        return self.form in ("EVV", "VEE")

    @property
    def has_axes(self) -> bool:
        """Whether orientations are parameters of their own."""
        return self.orientation != "I" and not self.by_matrices

    # -- the parts ----------------------------------------------------------------------------------------------------

    def covariances(self, params: EllipsoidalParams) -> Array:
        """The covariance matrices, `[k, d, d]`."""
        k, d = params.means.shape
        volumes = jnp.broadcast_to(params.volumes, (k,))[:, None, None]
        if self.by_matrices:
            return volumes * jnp.broadcast_to(params.shapes, (k, d, d))
        shapes = jnp.broadcast_to(params.shapes, (k, d)) if self.shape == "V" else _repeated(params.shapes, k)
        if params.orientations is None:
            return volumes * shapes[:, :, None] * jnp.eye(d, dtype=shapes.dtype)[None]
        axes = params.orientations if self.orientation == "V" else _repeated(params.orientations, k)
        return volumes * dot("kij,kj,klj->kil", axes, shapes, axes)

    def as_gaussians(self, params: EllipsoidalParams) -> GaussianParams:
        """The same components as parameters of Full."""
        return GaussianParams(params.means, self.covariances(params))

    def from_covariances(self, means: Array, covariances: Array) -> EllipsoidalParams:
        """Parameters with given means `[k, d]` and covariance matrices `[k, d, d]`, such as another program's.

        Matrices that are not of this form are brought to it as by an M-step in which each component has the same share.
        """
        k = means.shape[0]
        shares = jnp.full(k, 1.0 / k, covariances.dtype)
        start = self._of_matrix(means, dot("k,kij->ij", shares, covariances))
        return EllipsoidalParams(means, *self._parts(start, covariances, shares))

    def _of_matrix(self, means: Array, covariance: Array) -> EllipsoidalParams:
        """Parameters with one covariance `[d, d]` in every component, or what the form keeps of it."""
        k = means.shape[0]
        axes = None
        if self.by_matrices:
            volume = _root_det(covariance)
            shape = covariance / volume
        else:
            variances = jnp.diagonal(covariance)
            if self.has_axes:
                variances, axes = eigenvectors(covariance)
                axes = in_chart(axes)
                axes = _repeated(axes, k) if self.orientation == "V" else axes
            volume = _geometric_mean(variances)
            shape = _floored(variances) / volume
        volumes = jnp.broadcast_to(volume, (k,)) if self.volume == "V" else volume
        return EllipsoidalParams(means, volumes, _repeated(shape, k) if self.shape == "V" else shape, axes)

    # -- the contract -------------------------------------------------------------------------------------------------

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> EllipsoidalParams:
        means, covariances = FULL.init(x, n_components, sample_weight)
        return self._of_matrix(means, covariances[0])

    def log_prob(self, params: EllipsoidalParams, x: Array) -> Array:
        return FULL.log_prob(self.as_gaussians(params), x)

    def suff_stats(self, params: EllipsoidalParams, x: Array, resp: Array) -> GaussianStats:
        return FULL.suff_stats(self.as_gaussians(params), x, resp)

    def prepare(self, params: EllipsoidalParams, log_weights: Array | None = None) -> Prepared:
        return FULL.prepare(self.as_gaussians(params), log_weights)

    def block_stats(self, prepared: Prepared, x: Array, w: Array, norms: Array) -> Stats:
        return FULL.block_stats(prepared, x, w, norms)

    def m_step(self, params: EllipsoidalParams, stats: GaussianStats) -> EllipsoidalParams:
        means, covariances = FULL.m_step(self.as_gaussians(params), stats)
        known = alive(stats.degrees)  # [k]
        degrees = jnp.where(known, stats.degrees, 0.0)
        shares = degrees / positive(jnp.sum(degrees))
        new = EllipsoidalParams(means, *self._parts(params, covariances, shares))

        def keep(new: Array, old: Array, letter: str) -> Array:
            owned = known if letter == "V" else jnp.any(known)
            return jnp.where(owned.reshape(*owned.shape, *(1,) * (new.ndim - owned.ndim)), new, old)

        return EllipsoidalParams(
            means,
            keep(new.volumes, params.volumes, self.volume),
            keep(new.shapes, params.shapes, self.shape),
            None
            if new.orientations is None or params.orientations is None
            else keep(new.orientations, params.orientations, self.orientation),
        )

    def move_stats(self, old: EllipsoidalParams, new: EllipsoidalParams, stats: GaussianStats) -> GaussianStats:
        return cast(GaussianStats, FULL.move_stats(self.as_gaussians(old), self.as_gaussians(new), stats))

    def expected(self, params: EllipsoidalParams, stats: GaussianStats) -> Array:
        return FULL.expected(self.as_gaussians(params), stats)

    def _parts(self, params: EllipsoidalParams, covariances: Array, shares: Array) -> tuple[Array, Array, Array | None]:
        """Volumes, shapes and orientations that fit matrices S_j `[k, d, d]` of which component j has the share p_j best."""
        d = covariances.shape[-1]
        if self.form == "EVV":
            volumes = jax.vmap(_root_det)(covariances)
            return dot("k,k->", shares, volumes), covariances / volumes[:, None, None], None
        if self.form == "VEE":
            old = whitener(params.shapes)
            old = old / _geometric_mean(
                jnp.diagonal(old)
            )  # of determinant 1 to rounding, however many steps there were
            root = minimise(MATRIX, old, (covariances, shares))
            outer = whitener(dot("ji,jk->ik", root, root))  # inv(C) = root' root
            return _traces(root, covariances) / d, dot("ji,jk->ik", outer, outer), None
        axes = self._axes(params, covariances, shares) if self.has_axes else None
        if axes is None:
            variances = jnp.diagonal(covariances, axis1=-2, axis2=-1)
        else:
            variances = _along(_repeated(axes, shares.shape[0]) if self.orientation == "E" else axes, covariances)
        variances = _floored(variances)  # [k, d]
        if self.shape == "V":
            own = _geometric_mean(variances)
            return own if self.volume == "V" else dot("k,k->", shares, own), variances / own[:, None], axes
        if self.volume == "E":
            whole = dot("k,kd->d", shares, variances)
            return _geometric_mean(whole), whole / _geometric_mean(whole), axes
        start = _log(params.shapes)
        shape = jnp.exp(minimise(SHAPE, start - jnp.mean(start), (variances, shares)))
        return jnp.mean(variances / shape[None, :], axis=1), shape, axes

    def _axes(self, params: EllipsoidalParams, covariances: Array, shares: Array) -> Array:
        """The best orientations for matrices S_j, near those of `params` in the order and the signs of their columns."""
        old = params.orientations
        assert old is not None
        if self.orientation == "V":
            vectors = jax.vmap(eigenvectors)(covariances)[1]
            rank = jnp.argsort(jnp.argsort(-params.shapes))  # the largest variance belongs to the largest entry of A
            return jax.vmap(align)(vectors[:, :, rank], old)
        problem = AXES_OF_EQUAL_VOLUMES if self.volume == "E" else AXES
        data = (covariances, shares)
        pooled = eigenvectors(jax.lax.stop_gradient(dot("k,kij->ij", shares, covariances)))[1]
        ends = jax.vmap(lambda start: minimise(problem, start, data))(jnp.stack([old, pooled]))
        losses = jax.vmap(lambda end: problem.loss(end, data))(ends)
        lower = losses[1] < losses[0] - 1e3 * epsilon(losses.dtype) * (1.0 + jnp.abs(losses[0]))
        return align(orthonormal(jnp.where(lower, ends[1], ends[0])), old)

    def unconstrain(self, params: EllipsoidalParams) -> Array:
        d = params.means.shape[1]
        if self.by_matrices:
            shapes = jnp.vectorize(lambda c: log_cholesky(c)[:-1], signature="(d,d)->(p)")(params.shapes)
        else:
            logs = _log(params.shapes)
            shapes = (logs - jnp.mean(logs, axis=-1, keepdims=True))[..., : d - 1]
        parts = [params.means, _log(params.volumes), shapes]
        if params.orientations is not None:
            entries = jax.vmap(lambda axes: cayley_entries(in_chart(axes)))
            parts.append(entries(params.orientations.reshape(-1, d, d)))
        return jnp.concatenate([part.ravel() for part in parts])

    def constrain(self, params: EllipsoidalParams, free: Array) -> EllipsoidalParams:
        k, d = params.means.shape

        def part(i: int, letter: str, p: int) -> tuple[Array, int]:
            end = i + (k * p if letter == "V" else p)
            return free[i:end].reshape(k, p) if letter == "V" else free[i:end], end

        pairs = d * (d - 1) // 2
        means, i = part(0, "V", d)
        volumes, i = part(i, self.volume, 1)
        shapes, i = part(i, self.shape, pairs + d - 1 if self.by_matrices else d - 1)
        complete = _matrix_of_det_1 if self.by_matrices else _shape_of_product_1
        shapes = jax.vmap(lambda own: complete(own, d))(shapes) if self.shape == "V" else complete(shapes, d)
        axes: Array | None = None
        if self.has_axes:
            axes, i = part(i, self.orientation, pairs)
            axes = jax.vmap(lambda own: cayley(own, d))(axes) if self.orientation == "V" else cayley(axes, d)
        volumes = jnp.exp(volumes).reshape((k,) if self.volume == "V" else ())
        return EllipsoidalParams(means, volumes, shapes, axes)

    def units(self, params: EllipsoidalParams, weights: Array) -> Array:
        """Those of means, volumes and shapes are complete-data standard errors; those of orientations one radian or so."""
        k, d = params.means.shape
        each, once = jax.lax.rsqrt(weights), jnp.ones(1, weights.dtype)

        def of(letter: str) -> Array:
            return (each if letter == "V" else once)[:, None]

        variances = jnp.diagonal(self.covariances(params), axis1=-2, axis2=-1)
        of_means = jnp.sqrt(jnp.where(variances > 0, variances, 1.0)) * each[:, None]
        if self.by_matrices:
            of_entries = jax.vmap(log_cholesky_units)(params.shapes.reshape(-1, d, d))[:, :-1]
            rows, columns = np.tril_indices(d)
            # the last logarithm moves against each of the others, which doubles what is known of them
            of_shapes = jnp.where(jnp.asarray(rows == columns)[None, :-1], math.sqrt(0.25), of_entries)
        else:
            of_shapes = jnp.ones((k if self.shape == "V" else 1, d - 1), weights.dtype)
        parts = [of_means, math.sqrt(2.0 / d) * of(self.volume), of_shapes * of(self.shape)]
        if self.has_axes:
            parts.append(of(self.orientation) * jnp.ones((1, d * (d - 1) // 2), weights.dtype))
        return jnp.concatenate([part.ravel() for part in parts])

    def marginal(self, params: EllipsoidalParams, columns: np.ndarray) -> tuple[Family, GaussianParams]:
        """Components of Full: some columns of a form need not be of that form."""
        return FULL, FULL.marginal(self.as_gaussians(params), columns)[1]

    def conditional(
        self, params: EllipsoidalParams, columns: np.ndarray, values: Array, others: np.ndarray
    ) -> tuple[Family, GaussianParams, Array]:
        return FULL.conditional(self.as_gaussians(params), columns, values, others)

    def sample(self, key: Array, params: EllipsoidalParams, labels: Array) -> Array:
        return FULL.sample(key, self.as_gaussians(params), labels)

    # -- what a Gaussian has more -------------------------------------------------------------------------------------

    def log_prior(self, params: EllipsoidalParams, prior: NormalInverseWishart) -> Array:
        """Log density `[]` of a NormalInverseWishart on each component's covariance matrix, up to a constant."""
        return FULL.log_prior(self.as_gaussians(params), prior)

    def imagined(
        self, params: EllipsoidalParams, stats: GaussianStats, prior: NormalInverseWishart, still: Any = None
    ) -> GaussianStats:
        """What a NormalInverseWishart adds to `stats` about `params`: the same as in Full, once for each component."""
        return FULL.imagined(self.as_gaussians(params), stats, prior, still)

    def is_bounded(self, params: EllipsoidalParams, prior: NormalInverseWishart, variance: Array) -> Array:
        """Whether log-likelihood + log prior has an upper bound, `[]` of bool: whether that of Full has."""
        return FULL.is_bounded(self.as_gaussians(params), prior, variance)

    def inverse_wishart(self, degrees: float, scale: Array) -> tuple[float, Array]:
        """`degrees` and `scatter` of mclust's default prior, given those of an inverse Wishart."""
        family = Diagonal() if self.orientation == "I" else FULL
        return family.inverse_wishart(degrees, scale)

    def place(self, params: Any, x: Array, centres: Array, sample_weight: Any = None, *, narrow: Any = 0) -> Any:
        if isinstance(narrow, int) and not narrow:
            return params._replace(means=centres)
        boxes = FULL.place(self.as_gaussians(params), x, centres, sample_weight, narrow=narrow)
        return self._of_matrix(centres, boxes.covariances[0])

    def shift(self, params: EllipsoidalParams, offset: Array) -> EllipsoidalParams:
        return params._replace(means=params.means + offset[None, :])

    def degenerate(self, params: EllipsoidalParams, counts: Array, variance: Array) -> Array:
        """Full's rule on the matrices, where a part that all share is judged by all rows.

        With an equal shape a component can only collapse by its own volume: it is beside the widest one that its smallest
        variance is judged. With an equal volume too (EEV) all collapse or none.
        """
        d = params.means.shape[1]
        smallest = FULL.smallest_variance(self.covariances(params), variance)  # [k]
        flat, total = smallest < FLAT * epsilon(variance.dtype), jnp.sum(counts)
        few, few_in_all = counts < FEW * (d + 1), total < FEW * (d + 1)
        if self.shape == "V":
            singular = counts < d + 1 if self.form == "EVV" else False  # a matrix of fewer rows is singular
            return flat | ((smallest < MIN_EIGENVALUE) & few) | singular
        widest = jnp.max(smallest)
        whole = (smallest < MIN_EIGENVALUE) & few_in_all
        if self.volume == "E":
            return flat | whole
        return flat | whole | ((smallest < MIN_EIGENVALUE * jnp.minimum(widest, 1.0)) & few)

    def step_size(self, old: EllipsoidalParams, new: EllipsoidalParams) -> Array:
        return FULL.step_size(self.as_gaussians(old), self.as_gaussians(new))

    def n_features(self, params: EllipsoidalParams) -> int:
        return params.means.shape[-1]

    def subset(self, params: EllipsoidalParams, index: Any) -> tuple[Family, EllipsoidalParams]:
        def pick(leaf: Any, letter: str) -> Any:
            return leaf[index] if letter == "V" and leaf is not None else leaf

        volumes, shapes = pick(params.volumes, self.volume), pick(params.shapes, self.shape)
        return self, EllipsoidalParams(
            params.means[index], volumes, shapes, pick(params.orientations, self.orientation)
        )

    def table(self, params: EllipsoidalParams) -> dict[str, Any]:
        return FULL.table(self.as_gaussians(params))

    def check(self, params: EllipsoidalParams) -> str | None:
        if not np.all(params.volumes > 0):
            return "volumes is not positive"
        shapes = np.asarray(params.shapes)
        if self.by_matrices:
            if not is_positive_definite(shapes):
                return "shapes is not positive definite"
            logs = np.linalg.slogdet(shapes)[1]
        else:
            if not np.all(shapes > 0):
                return "shapes is not positive"
            logs = np.sum(np.log(shapes), axis=-1)
        if np.any(np.abs(logs) > ASYMMETRY * shapes.shape[-1]):
            return f"shapes has not the {'determinant' if self.by_matrices else 'product'} 1"
        if params.orientations is None:
            return None
        axes = np.asarray(params.orientations)
        products = np.swapaxes(axes, -1, -2) @ axes
        return (
            None if np.all(np.abs(products - np.eye(axes.shape[-1])) <= ASYMMETRY) else "orientations is not orthogonal"
        )

    def row_floats(self, n_components: int, n_features: int) -> int:
        return FULL.row_floats(n_components, n_features)


def _form(volume: str, shape: str | None, orientation: str | None) -> str:
    """The three letters of a form; a ValueError if there is no such form."""
    given = [part for part in (volume, shape, orientation) if part is not None]
    words = [LETTERS.get(str(part).strip().lower(), str(part).strip()) for part in given]
    form = "".join(words).upper()
    if form not in FORMS or len(words) not in (1, 3):
        said = f"form = {volume!r}" if len(words) == 1 else f"(volume, shape, orientation) = {tuple(given)!r}"
        raise ValueError(f"{said} is unknown; choose from {', '.join(FORMS)}")
    return form


# -- steps --------------------------------------------------------------------------------------------------------------


def _floor(dtype: Any) -> float:
    """What variances are raised to, so that a component on a single row has finite parameters."""
    return tiny(dtype) / epsilon(dtype)


def _floored(variances: Array) -> Array:
    return jnp.maximum(variances, _floor(variances.dtype))


def _log(variances: Array) -> Array:
    return jnp.log(jnp.maximum(variances, tiny(variances.dtype)))


def _geometric_mean(variances: Array) -> Array:
    """The geometric mean over the last axis."""
    return jnp.exp(jnp.mean(jnp.log(_floored(variances)), axis=-1))


def _repeated(leaf: Array, k: int) -> Array:
    return jnp.broadcast_to(leaf[None], (k, *leaf.shape))


def _root_det(matrix: Array) -> Array:
    """|S|^(1/d) of a matrix `[d, d]`; next to nothing, but positive, where S is singular."""
    of_factor = log_det(matrix, whitener(matrix)) / matrix.shape[0]
    of_diagonal = jnp.log(epsilon(matrix.dtype) * _geometric_mean(jnp.diagonal(matrix)))
    return jnp.exp(jnp.where(jnp.isfinite(of_factor), of_factor, of_diagonal))


def _along(axes: Array, covariances: Array) -> Array:
    """The variances along axes `[..., d, d]`, the diagonal of D' S D, `[..., d]`."""
    return jnp.sum(axes * dot("...ij,...jk->...ik", covariances, axes), axis=-2)


def _shape_of_product_1(logs: Array, d: int) -> Array:
    """A shape `[d]` from the logarithms `[d - 1]` of all its entries but the last."""
    del d
    return jnp.exp(jnp.concatenate([logs, -jnp.sum(logs, keepdims=True)]))


def _matrix_of_det_1(free: Array, d: int) -> Array:
    """A matrix `[d, d]` from its log-Cholesky coordinates without the last."""
    rows, columns = np.tril_indices(d)
    logs = free[np.flatnonzero(rows == columns)[:-1]]
    return from_log_cholesky(jnp.concatenate([free, -jnp.sum(logs, keepdims=True)]), d)


# -- what Newton's method minimises --------------------------------------------------------------------------------------

Data = tuple[Array, Array]  # S_j [k, d, d], or variances [k, d], and the shares p_j [k]


def _shape_loss(log_shape: Array, data: Data) -> Array:
    variances, shares = data
    return dot("k,k->", shares, jax.nn.logsumexp(jnp.log(variances) - log_shape[None, :], axis=1))


def _move_shape(log_shape: Array, c: Array) -> Array:
    return log_shape + jnp.concatenate([c, -jnp.sum(c, keepdims=True)])


def _traces(root: Array, covariances: Array) -> Array:
    """tr(S_j inv(C)), `[k]`, inv(C) = root' root."""
    return _floored(jnp.sum(dot("ij,kjl->kil", root, covariances) * root[None], axis=(1, 2)))


def _matrix_loss(root: Array, data: Data) -> Array:
    covariances, shares = data
    return dot("k,k->", shares, jnp.log(_traces(root, covariances)))


def _move_root(root: Array, c: Array) -> Array:
    """T root with a lower triangular T of determinant 1: below its diagonal, and the logarithms of that but the last."""
    d = root.shape[0]
    rows, columns = np.tril_indices(d, -1)
    below, logs = c[: rows.size], c[rows.size :]
    factor = jnp.diag(_shape_of_product_1(logs, d)).at[rows, columns].set(below)
    return dot("ij,jk->ik", factor, root)


def _axes_loss(axes: Array, data: Data) -> Array:
    covariances, shares = data
    along = _along(_repeated(axes, shares.shape[0]), covariances)
    return dot("k,k->", shares, jnp.mean(jnp.log(_floored(along)), axis=1))


def _axes_loss_of_equal_volumes(axes: Array, data: Data) -> Array:
    covariances, shares = data
    along = _along(_repeated(axes, shares.shape[0]), covariances)
    return jnp.log(dot("k,k->", shares, _geometric_mean(along)))


def _near_axes(axes: Array, c: Array) -> Array:
    a = skew(c, axes.shape[0])
    return axes + dot("ij,jk->ik", axes, a + 0.5 * dot("ij,jk->ik", a, a))


def _move_axes(axes: Array, c: Array) -> Array:
    return dot("ij,jk->ik", axes, cayley(0.5 * c, axes.shape[0]))


def _pairs(axes: Array) -> int:
    return axes.shape[-1] * (axes.shape[-1] - 1) // 2


SHAPE = Problem(_shape_loss, _move_shape, _move_shape, lambda log_shape: log_shape.shape[-1] - 1)
MATRIX = Problem(_matrix_loss, _move_root, _move_root, lambda root: _pairs(root) + root.shape[-1] - 1)
AXES = Problem(_axes_loss, _near_axes, _move_axes, _pairs)
AXES_OF_EQUAL_VOLUMES = Problem(_axes_loss_of_equal_volumes, _near_axes, _move_axes, _pairs)
"""the problems of the head, in its order"""
