"""Mixture: p(x) = sum_j p_j p(x | params_j), a pytree of log weights and parameters; its family is static.

Pure functions of a mixture go through jit, vmap and grad like those of any array. A batch of mixtures (restarts) is a
Mixture whose leaves lead with one more axis, to be used under `jax.vmap`.
"""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem import kept, pointwise
from jaxem.checks import as_columns, as_count, as_given, as_key
from jaxem.display import Axes, mixture_card, picture, readable
from jaxem.families.base import Family
from jaxem.holding import Held, after_picking, free_coordinates, free_weights, with_coordinates, with_free_weights
from jaxem.primitives import check_number, is_number, take, tiny
from jaxem.rows import Frame

LEAST_SHARE = 1e-3
"""weight that natural units take a component to have at least"""


@readable(mixture_card)
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """A finite mixture of one family; `mixture[i]` is component i, or mixture i of a batch.

    Attributes:
        log_weights: `[k]`, logs of the mixing proportions; -inf for a component that has died out.
        components: the family's parameters, a pytree.
        family: the kind of component; static, so equal families share compiled programs.
        held: which parameters stay as they are (`fit` with `held=` sets it); static. They have no coordinates in the chart.
    """

    log_weights: Array
    components: Any
    family: Family = dataclasses.field(metadata={"static": True})
    held: Held | None = dataclasses.field(default=None, metadata={"static": True})

    def __getitem__(self, index: Any) -> "Mixture":
        """Of a batch, leaves `[r, ...]`, the mixture of number `index`; of one mixture its component of that number.

        The component comes as a mixture of one component, of weight one. A slice or an array of numbers gives a smaller
        batch, or a mixture of these components whose weights sum to one.
        """
        if self.log_weights.ndim > 1:
            return take(self, index)
        if is_number(index):
            check_number(index, self.n_components)
            index = jnp.asarray(index)[None]
        family, components = self.family.subset(self.components, index)
        log_weights = self.log_weights[index]
        # of components that have all died out each is as likely as the others
        alive = jnp.any(log_weights > -jnp.inf)
        held = after_picking(self.held, index, weights=False)
        return Mixture(jax.nn.log_softmax(jnp.where(alive, log_weights, 0.0)), components, family, held)

    def __len__(self) -> int:
        """Mixtures in a batch; of one mixture the number of components."""
        return self.log_weights.shape[0]

    @property
    def weights(self) -> Array:
        """Mixing proportions `[k]`, which sum to one."""
        return jnp.exp(self.log_weights)

    @property
    def n_components(self) -> int:
        """Number of components k."""
        return self.log_weights.shape[-1]

    @property
    def n_parameters(self) -> int:
        """Number of free parameters p: k - 1 for the weights and those of the components, without those that are held."""
        leaves, structure = jax.tree.flatten(self)
        return _count_parameters(structure, tuple(np.shape(leaf) for leaf in leaves))

    def log_joint(self, x: ArrayLike, *, chunk_size: int | None = None) -> Array:
        """log p(x_i, j) = log p_j + log p(x_i | params_j), `[n, k]`.

        Args:
            x: `[n, d]`.
            chunk_size: rows worked on at a time; computed from the shapes by default.
        """
        return pointwise.over_rows(pointwise.log_joint, self, x, chunk_size)

    def log_prob(self, x: ArrayLike, *, chunk_size: int | None = None) -> Array:
        """log p(x_i), `[n]`; see `log_joint` for the arguments."""
        return pointwise.over_rows(pointwise.log_prob, self, x, chunk_size)

    def responsibilities(self, x: ArrayLike, *, chunk_size: int | None = None) -> Array:
        """p(j | x_i), `[n, k]`, rows summing to one; the weights for a row that no component can produce."""
        return pointwise.over_rows(pointwise.responsibilities, self, x, chunk_size)

    def predict(self, x: ArrayLike, *, chunk_size: int | None = None) -> Array:
        """The likeliest component of each row, `[n]` of int; no array `[n, k]` is made."""
        return pointwise.over_rows(pointwise.predict, self, x, chunk_size)

    def log_confidence(self, x: ArrayLike, *, chunk_size: int | None = None) -> Array:
        """log max_j p(j | x_i), `[n]`: 0 where a row surely belongs to one component; no array `[n, k]` is made."""
        return pointwise.over_rows(pointwise.log_confidence, self, x, chunk_size)

    def impute(self, x: ArrayLike, *, chunk_size: int | None = None) -> Array:
        """`x` `[n, d]` with the mixture's expectation, given what was observed, in place of NaN; of categories, the likeliest."""
        return pointwise.over_rows(pointwise.impute, self, x, chunk_size)

    def bic(self, x: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The Bayesian information criterion on rows `[n, d]`; less is better. With weights n is their sum."""
        return pointwise.criteria_of(self, x, sample_weight).bic

    def aic(self, x: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The Akaike information criterion on rows `[n, d]`, weighted if wanted; less is better."""
        return pointwise.criteria_of(self, x, sample_weight).aic

    def plot(self, x: ArrayLike | None = None, **options: Any) -> Axes:
        """`jaxem.plots.plot_mixture`, with rows `plot_responsibilities`; returns the axes."""
        return picture("plot_mixture" if x is None else "plot_responsibilities", self, x, **options)

    def sample(self, key: Array, n_samples: int) -> tuple[Array, Array]:
        """Draw rows `[n, d]` and the components `[n]` they come from."""
        return _sample(self, as_key(key), as_count("n_samples", n_samples))

    def denoise(self, x: ArrayLike, *, chunk_size: int | None = None) -> Array:
        """The means of the truth `[n, d]` behind noisy rows `[n, c]` of `jaxem.with_noise`, by responsibility.

        Raises:
            NotImplementedError: for a family other than `Deconvolved`.
        """
        return pointwise.over_rows(pointwise.denoise, self, x, chunk_size)

    def marginal(self, columns: Any) -> "Mixture":
        """The mixture of some columns alone: `columns` names one, or several, which come in that order.

        Raises:
            NotImplementedError: for a family that has no marginal densities in closed form.
        """
        index = as_columns("columns", columns, self.family.n_features(self.components))
        family, components = self.family.marginal(self.components, index)
        return Mixture(self.log_weights, components, family)

    def conditional(self, columns: Any, values: ArrayLike) -> "Mixture":
        """The mixture of the other columns, in their order, where `columns` have `values`.

        Args:
            columns: the number of a column, or several.
            values: one for each of these.

        Raises:
            NotImplementedError: for a family that has no conditional densities in closed form.
        """
        d = self.family.n_features(self.components)
        if d is None:
            raise NotImplementedError(f"{self.family.shown_name} has no conditional densities in closed form")
        index, given, others = as_given(columns, values, d, self.log_weights.dtype)
        family, components, log_prob = self.family.conditional(self.components, index, given, others)
        joint = self.log_weights + log_prob
        possible = jnp.any(joint > -jnp.inf)  # else the values tell nothing
        return Mixture(jax.nn.log_softmax(jnp.where(possible, joint, self.log_weights)), components, family)

    def unconstrain(self) -> Array:
        """Coordinates `[p]` in an unconstrained minimal chart: log p_j / p_k for j < k, then the family's."""
        # a weight of zero still has coordinates; its logarithm is held at that of the smallest normal number
        log_weights = jnp.maximum(self.log_weights, jnp.log(tiny(self.log_weights.dtype)))[free_weights(self)]
        of_components = self.family.unconstrain(self.components)[free_coordinates(self)]
        return jnp.concatenate([log_weights[:-1] - log_weights[-1:], of_components])

    def constrain(self, free: Array) -> "Mixture":
        """The mixture of this one's shape and family at coordinates `free` `[p]`."""
        f = self.log_weights[free_weights(self)].shape[0]
        shares, rest = jnp.concatenate([free[: f - 1], jnp.zeros(1, free.dtype)])[:f], free[max(f - 1, 0) :]
        log_weights = with_free_weights(self, jax.nn.log_softmax(shares))
        return dataclasses.replace(self, log_weights=log_weights, components=with_coordinates(self, rest))

    def units(self) -> Array:
        """Natural units `[p]` of the chart's coordinates: standard errors if each component had a unit of rows to itself."""
        p = self.weights
        of_weights = jax.lax.rsqrt(jnp.maximum(p * (1.0 - p), LEAST_SHARE))[free_weights(self)][:-1]
        of_components = self.family.units(self.components, jnp.maximum(p, LEAST_SHARE))
        return jnp.concatenate([of_weights, of_components[free_coordinates(self)]])

    def shift(self, offset: Array) -> "Mixture":
        """The mixture of x + offset `[d]`; only families with a `location` have one."""
        return dataclasses.replace(self, components=self.family.shift(self.components, offset))

    def to_frame(self, frame: Frame) -> "Mixture":
        """The mixture where the rows of a frame lie, centred as they are and in their dtype."""
        own = self.astype(frame.centre.dtype)
        return own.shift(-frame.centre) if self.family.location else own

    def from_frame(self, frame: Frame) -> "Mixture":
        """Inverse of `to_frame`: the mixture where the data lie."""
        return self.shift(frame.centre) if self.family.location else self

    def settle(self, centre: Array) -> "Mixture":
        """A start in a frame with this centre `[d]`, with what is given about the data where they lie (`Family.settle`)."""
        return dataclasses.replace(self, components=self.family.settle(self.components, centre))

    def astype(self, dtype: Any) -> "Mixture":
        """The same mixture with floating-point parameters of another dtype; integer leaves stay as they are."""

        def cast(leaf: Any) -> Any:
            own = jnp.result_type(leaf)
            return jnp.asarray(leaf, dtype) if jnp.issubdtype(own, jnp.floating) and own != dtype else leaf

        return jax.tree.map(cast, self)


@functools.lru_cache
def _count_parameters(structure: Any, shapes: tuple[tuple[int, ...], ...]) -> int:
    def find() -> int:
        leaves = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
        return jax.eval_shape(Mixture.unconstrain, jax.tree.unflatten(structure, leaves)).shape[0]

    return cast(int, kept.fact(["parameters", structure, shapes], find))


@functools.partial(jax.jit, static_argnums=2)
def _sample(mixture: Mixture, key: Array, n_samples: int) -> tuple[Array, Array]:
    label_key, row_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, mixture.log_weights, shape=(n_samples,))
    return mixture.family.sample(row_key, mixture.components, labels), labels
