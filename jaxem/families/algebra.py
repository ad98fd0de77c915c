"""Families of families: Product over groups of columns, Union over components.

    Product   p(x | params_j) = prod_g p_g(x_g | params_gj)     groups of columns that are independent given the component
    Union     component j is of the kind whose turn it is: the first count_1 of the first kind, and so forth

Either way the proxy is a sum of the parts' proxies, so that each part makes its own M-step, and keeps its own centring, its
priors, and its rule for components that collapse. Parameters and statistics are tuples, one entry for each part. What a
part gets is its own columns of the rows (`_rows`) or its own components (`_share`); what the parts give is joined.
"""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.families.base import Family
from jaxem.families.holdable import HeldFamily, Holdable
from jaxem.families.movable import Movable
from jaxem.moments import weighted_moments


class _Composed(Movable, Holdable):
    """What both share. `_rows`, `_share` and `_join` say how they differ."""

    parts: tuple[tuple[Family, Any], ...]

    def __init__(self, *parts: tuple[Any, Any]) -> None:
        name = type(self).__name__
        for part in parts:
            if not isinstance(part, tuple) or len(part) != 2 or not isinstance(part[0], Family):
                found = f"the class {part[0].__name__}" if part and isinstance(part[0], type) else repr(part)
                raise TypeError(f"{name} holds {found}; give pairs such as {self._example}")
        if not parts:
            raise TypeError(f"{name} holds no part; give pairs such as {self._example}")
        object.__setattr__(self, "parts", self._checked(parts))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'({family!r}, {of!r})' for family, of in self.parts)})"

    _example = ""

    def _checked(self, parts: Any) -> Any:
        """The parts as they are kept; a ValueError if they do not fit each other."""
        raise NotImplementedError

    def _rows(self, x: Any) -> Sequence[Any]:
        """What each part sees of rows `[n, d]`."""
        raise NotImplementedError

    def _share(self, values: Any, params: Any, axis: int = 0) -> Sequence[Any]:
        """What each part gets of values that lead, or at `axis`, with components."""
        raise NotImplementedError

    def _join(self, values: list[Any], op: Callable[[Any, Any], Any], axis: int = 0) -> Any:
        """One array of the parts' arrays, which have components at `axis`."""
        raise NotImplementedError

    def lengths(self, n_components: int) -> Sequence[int]:
        """How many components each part has."""
        raise NotImplementedError

    _sign = ""

    @property
    def shown_name(self) -> str:
        return self._sign.join(family.shown_name for family in self.families)

    @property
    def families(self) -> tuple[Family, ...]:
        """The parts' families."""
        return tuple(family for family, _ in self.parts)

    @property
    def exact(self) -> bool:
        return all(family.exact for family in self.families)

    @property
    def conjugate(self) -> tuple[type, ...]:
        return tuple(dict.fromkeys(kind for family in self.families for kind in family.conjugate))

    def impute(self, params: Any, resp: Array, x: Array, run: int = 1) -> Array:
        shares = self._share(resp, params, 1)
        totals = [jnp.sum(share, axis=1, keepdims=True) for share in shares]
        own = [share / jnp.where(total > 0, total, 1.0) for share, total in zip(shares, totals, strict=True)]
        found = self._each(lambda f, *of: f.impute(*of), params, own, self._rows(x))
        return jnp.where(x == x, x, self._whole(found, totals, x))

    def _whole(self, found: list[Array], totals: list[Array], x: Array) -> Array:
        """Rows like `x` `[n, d]` of what the parts found of their own, whose responsibilities sum to `totals` `[n, 1]`."""
        raise NotImplementedError

    def _each(self, of_part: Callable[..., Any], *trees: Iterable[Any]) -> list[Any]:
        return [of_part(*part) for part in zip(self.families, *trees, strict=True)]

    def init(self, x: Array, n_components: int, sample_weight: Array | None = None) -> Any:
        own = self._rows(x), self.lengths(n_components)
        return tuple(self._each(lambda f, x, k: f.init(x, k, sample_weight), *own))

    def log_prob(self, params: Any, x: Array) -> Array:
        return self._join(self._each(lambda f, p, x: f.log_prob(p, x), params, self._rows(x)), operator.add, 1)

    def bound(self, new: Any, old: Any, x: Array) -> Array:
        return self._join(self._each(lambda f, *of: f.bound(*of), new, old, self._rows(x)), operator.add, 1)

    def suff_stats(self, params: Any, x: Array, resp: Array) -> Any:
        own = params, self._rows(x), self._share(resp, params, 1)
        return tuple(self._each(lambda f, *of: f.suff_stats(*of), *own))

    def m_step(self, params: Any, stats: Any) -> Any:
        return tuple(self._each(lambda f, *of: f.m_step(*of), params, stats))

    def m_step_held(self, params: Any, stats: Any, held: Any) -> Any:
        return tuple(self._each(lambda f, h, *of: HeldFamily(f, h).m_step(*of), held, params, stats))

    def imagined_held(self, params: Any, stats: Any, prior: Any, held: Any) -> Any:
        return self.imagined(params, stats, prior, held)

    @property
    def movable(self) -> bool:
        return all(isinstance(family, Movable) and family.movable for family in self.families)

    def move_stats(self, old: Any, new: Any, stats: Any) -> Any:
        return tuple(self._each(lambda f, *of: f.move_stats(*of), old, new, stats))

    def expected(self, params: Any, stats: Any) -> Array:
        return reduce(jnp.add, self._each(lambda f, *of: f.expected(*of), params, stats))

    def unconstrain(self, params: Any) -> Array:
        return jnp.concatenate(self._each(lambda f, p: f.unconstrain(p), params))

    def constrain(self, params: Any, free: Array) -> Any:
        sizes = self._each(lambda f, p: jax.eval_shape(f.unconstrain, p).shape[0], params)
        own = jnp.split(free, np.cumsum(sizes)[:-1])
        return tuple(self._each(lambda f, *of: f.constrain(*of), params, own))

    def place(self, params: Any, x: Array, centres: Array, sample_weight: Any = None, *, narrow: Any = 0) -> Any:
        own = [self._rows(centre)[i] for i, centre in enumerate(self._share(centres, params))]
        one = lambda f, p, x, c: f.place(p, x, c, sample_weight, narrow=narrow)  # noqa: E731
        return tuple(self._each(one, params, self._rows(x), own))

    def shift(self, params: Any, offset: Array) -> Any:
        own = params, self._rows(offset[None, :])
        return tuple(self._each(lambda f, p, by: f.shift(p, by[0]) if f.location else p, *own))

    def settle(self, params: Any, centre: Array) -> Any:
        own = params, self._rows(centre[None, :])
        return tuple(self._each(lambda f, p, at: f.settle(p, at[0]), *own))

    def degenerate(self, params: Any, counts: Array, variance: Array) -> Array:
        own = params, self._share(counts, params), self._rows(variance[None, :])
        lost = self._each(lambda f, p, n, v: jnp.broadcast_to(f.degenerate(p, n, v[0]), n.shape), *own)
        return self._join(lost, operator.or_)

    def step_size(self, old: Any, new: Any) -> Array:
        return reduce(jnp.maximum, self._each(lambda f, *of: f.step_size(*of), old, new))

    def units(self, params: Any, weights: Array) -> Array:
        return jnp.concatenate(self._each(lambda f, *of: f.units(*of), params, self._share(weights, params)))

    def log_prior(self, params: Any, prior: Any) -> Array:
        one = lambda f, p, own: f.log_prior(p, own) if isinstance(prior, f.conjugate) else None  # noqa: E731
        return reduce(operator.add, filter(_is_there, self._each(one, params, self._priors(prior))))

    def imagined(self, params: Any, stats: Any, prior: Any, held: Any = None) -> Any:
        def one(family: Family, params: Any, stats: Any, own: Any, held: Any) -> Any:
            if not isinstance(prior, family.conjugate):
                return jax.tree.map(jnp.zeros_like, stats)
            return (family if held is None else HeldFamily(family, held)).imagined(params, stats, own)

        every = [None] * len(self.parts) if held is None else held
        return tuple(self._each(one, params, stats, self._priors(prior), every))

    def is_bounded(self, params: Any, prior: Any, variance: Array) -> Array | bool:
        def one(family: Family, params: Any, own: Any, variance: Array) -> Array | bool:
            if type(family).degenerate is Family.degenerate:
                return True
            return isinstance(prior, family.conjugate) and family.is_bounded(params, own, variance[0])

        own = params, self._priors(prior), self._rows(variance[None, :])
        return cast(Array, reduce(operator.and_, self._each(one, *own)))

    def _priors(self, prior: Any) -> Sequence[Any]:
        """What a prior says of each part."""
        return [prior] * len(self.parts)

    def objection(self, x: Any) -> str | None:
        return next(filter(_is_there, self._each(lambda f, x: f.objection(x), self._rows(x))), None)

    def complaint(self, x: Any, n_components: int) -> str | None:
        own = self._rows(x), self.lengths(n_components)
        return next(filter(_is_there, self._each(lambda f, *of: f.complaint(*of), *own)), None)

    def possible(self, x: Array, n_components: int) -> Array | None:
        counts = self.lengths(n_components)
        every = self._each(lambda f, *of: f.possible(*of), self._rows(x), counts)
        if not any(map(_is_there, every)):
            return None
        whole = [jnp.ones((x.shape[0], k), bool) if one is None else one for one, k in zip(every, counts, strict=True)]
        return cast(Array, self._join(whole, operator.and_, 1))

    def background(self, n_components: int) -> np.ndarray:
        every = self._each(lambda f, k: f.background(k), self.lengths(n_components))
        return np.asarray(self._join(every, operator.and_))

    def length(self, params: Any) -> int:
        return int(self._join(self._each(lambda f, p: np.empty(f.length(p)), params), operator.add).shape[0])

    def check(self, params: Any) -> str | None:
        wrong = self._each(lambda f, p: f.check(p), params)
        return next((f"{i}.{found}" for i, found in enumerate(wrong) if found), None)


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)
class Product(_Composed):
    """Groups of columns that are independent given the component: `Product((family, columns), ...)`.

    Numbers and kinds in one row: `Product((Full(), (0, 1)), (Categorical(3), (2,)))`. A column belongs to one part; those that
    a conditional family is given (the covariates of a `Regression`) may belong to others too. A prior of `[d]` or `[d, d]`
    numbers speaks of all columns of x, and each part takes those of its own.
    """

    parts: tuple[tuple[Family, tuple[int, ...]], ...]

    _example, _sign = "(jaxem.Full(), (0, 1))", " x "

    def _checked(self, parts: Any) -> Any:
        owner: dict[int, Family] = {}
        parts = [(family, _as_columns(columns)) for family, columns in parts]
        for family, columns in parts:
            if family.n_columns not in (None, len(columns)):
                raise ValueError(
                    f"columns = {columns} has {len(columns)} for {family!r}, which takes {family.n_columns}"
                )
            for column in columns[family.n_given :]:
                if column in owner:
                    raise ValueError(f"column {column} is that of {owner[column]!r} and of {family!r}; give it to one")
                owner[column] = family
        used = {column for _, columns in parts for column in columns}
        for column in range(max(used)):
            if column not in used:
                raise ValueError(f"column {column} belongs to no part; give each of 0 to {max(used)} to a family")
        return tuple(parts)

    def _rows(self, x: Any) -> Sequence[Any]:
        return [x[:, np.asarray(columns)] for _, columns in self.parts]

    def _share(self, values: Any, params: Any, axis: int = 0) -> Sequence[Any]:
        return [values] * len(self.parts)

    def _join(self, values: list[Any], op: Callable[[Any, Any], Any], axis: int = 0) -> Any:
        return reduce(op, values)

    def lengths(self, n_components: int) -> Sequence[int]:
        return [n_components] * len(self.parts)

    def _priors(self, prior: Any) -> Sequence[Any]:
        return [prior.of_columns(np.asarray(columns), self.n_columns) for _, columns in self.parts]

    @property
    def n_columns(self) -> int:
        return 1 + max(column for _, columns in self.parts for column in columns)

    @property
    def interchangeable(self) -> bool:
        return all(family.interchangeable for family in self.families)

    @property
    def required_components(self) -> int | None:
        return next(
            (family.required_components for family in self.families if family.required_components is not None), None
        )

    @property
    def location(self) -> bool | tuple[int, ...]:
        pairs = [(_moving(f, len(own)), j, column) for f, own in self.parts for j, column in enumerate(own)]
        held = {column for movable, j, column in pairs if not (movable is True or (movable and j in movable))}
        return tuple(column for column in range(self.n_columns) if column not in held) or False

    @property
    def holes(self) -> bool | tuple[int, ...]:
        pairs = [(f.holes, j, column) for f, columns in self.parts for j, column in enumerate(columns)]
        needed = {column for may, j, column in pairs if not (may is True or (may and j in may))}
        return tuple(column for column in range(self.n_columns) if column not in needed) or False

    def _whole(self, found: list[Array], totals: list[Array], x: Array) -> Array:
        for own, (_, columns) in zip(found, self.parts, strict=True):
            x = x.at[:, np.asarray(columns)].set(own)
        return x

    @property
    def n_given(self) -> int:
        made = {column for family, columns in self.parts for column in columns[family.n_given :]}
        return self.n_columns - len(made)

    def sample(self, key: Array, params: Any, labels: Array) -> Array:
        drawn: dict[int, Array] = {}
        waiting = list(enumerate(zip(self.parts, params, strict=True)))
        while waiting:  # a part waits for the columns that it is given
            ready = [one for one in waiting if set(one[1][0][1][: one[1][0][0].n_given]) <= set(drawn)]
            if not ready:
                raise NotImplementedError(
                    "Product draws no rows: no part has a density of columns that another is given"
                )
            i, ((family, columns), of) = ready[0]
            given = [drawn[column] for column in columns[: family.n_given]]
            nothing = jnp.zeros((labels.shape[0], 0), jax.tree.leaves(of)[0].dtype)
            before = jnp.stack(given, axis=1) if given else nothing
            rows = family.complete(jax.random.fold_in(key, i), of, labels, before)
            drawn |= {column: rows[:, j] for j, column in enumerate(columns[family.n_given :])}
            waiting = [one for one in waiting if one[0] != i]
        return jnp.stack([drawn[column] for column in range(self.n_columns)], axis=1)

    def support(self, x: Any) -> Any:
        xp = np if isinstance(x, np.ndarray) else jnp
        possible = [x[:, j] == x[:, j] for j in range(self.n_columns)]
        for (family, columns), own in zip(self.parts, self._rows(x), strict=True):
            entries = family.support(own)
            for j, column in enumerate(columns) if entries is not True else ():
                possible[column] = possible[column] & entries[:, j]
        return xp.stack(possible, axis=1)

    def coordinates(self, x: Array, sample_weight: Array) -> Array:
        """Those of each part, each part scaled to a variance of one for each of its columns."""
        spaces = self._each(lambda f, x: f.coordinates(x, sample_weight), self._rows(x))
        return jnp.concatenate(
            [_scale(own, sample_weight, len(c)) for own, (_, c) in zip(spaces, self.parts, strict=True)], 1
        )

    def apart(self, params: Any, i: Array, j: Array) -> Array:
        return reduce(jnp.maximum, self._each(lambda f, p: f.apart(p, i, j), params))

    def marginal(self, params: Any, columns: np.ndarray) -> tuple[Family, Any]:
        parts = self._some(params, columns)
        return Product(*(part[:2] for part in parts)), tuple(of for _, _, of in parts)

    def conditional(
        self, params: Any, columns: np.ndarray, values: Array, others: np.ndarray
    ) -> tuple[Family, Any, Array]:
        given, parts = dict(zip(columns.tolist(), values, strict=True)), []
        total = jnp.zeros(self.length(params), values.dtype)
        for (family, own), of in zip(self.parts, params, strict=True):
            here = np.asarray([j for j, column in enumerate(own) if column in given], int)
            rest = np.asarray([j for j, column in enumerate(own) if column not in given], int)
            there = jnp.stack([given[own[j]] for j in here]) if here.size else values[:0]
            if not rest.size:
                total += family.log_prob(of, there[None, :])[0]
                continue
            if here.size:
                family, of, of_values = family.conditional(of, here, there, rest)
                total += of_values
            parts.append((family, [own[j] for j in rest], of))
        place = {column: j for j, column in enumerate(others.tolist())}
        pairs = [(family, tuple(place[column] for column in own)) for family, own, _ in parts]
        return Product(*pairs), tuple(of for *_, of in parts), total

    def _some(self, params: Any, columns: np.ndarray) -> list[tuple[Family, tuple[int, ...], Any]]:
        """The parts that make some columns, with the places of these and parameters."""
        place, parts = {column: j for j, column in enumerate(columns.tolist())}, []
        for (family, own), of in zip(self.parts, params, strict=True):
            here = np.asarray([j for j, column in enumerate(own) if column in place], int)
            if not np.any(here >= family.n_given):
                continue
            if here.size < len(own):
                family, of = family.marginal(of, here)
            parts.append((family, tuple(place[own[j]] for j in here), of))
        return parts

    def n_features(self, params: Any) -> int:
        return self.n_columns

    def subset(self, params: Any, index: Any) -> tuple[Family, Any]:
        pairs = self._each(lambda f, p: f.subset(p, index), params)
        columns = [columns for _, columns in self.parts]
        return Product(*zip([f for f, _ in pairs], columns, strict=True)), tuple(p for _, p in pairs)

    def table(self, params: Any) -> dict[str, Any]:
        """The parts' tables, numbers of columns in the places of these, NaN elsewhere; a name of two parts with its number."""
        shown: dict[str, Any] = {}
        for i, ((_, columns), of) in enumerate(
            zip(self.parts, self._each(lambda f, p: f.table(p), params), strict=True)
        ):
            for name, values in of.items():
                values = np.asarray(values)
                place = (
                    list(columns)[: values.shape[1]] if values.ndim > 1 and values.shape[1] <= len(columns) else None
                )
                if place is not None:
                    whole = np.full((len(values), self.n_columns, *values.shape[2:]), np.nan)
                    whole[:, place] = values
                    values, before = whole, shown.get(name)
                    if before is not None and before.shape == whole.shape and np.isnan(before[:, place]).all():
                        shown[name] = np.where(np.isnan(whole), before, whole)
                        continue
                shown[name if name not in shown else f"{name} {i}"] = values
        return shown

    def row_floats(self, n_components: int, n_features: int) -> int:
        return max(family.row_floats(n_components, len(columns)) for family, columns in self.parts)


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)
class Union(_Composed):
    """Different kinds of component in one mixture: `Union((family, count), ...)`.

    The first `count` components are of the first family, and so forth; None for one of the counts is all the others. Two
    clusters and a background: `Union((Full(), 2), (Uniform(low, high), 1))`. A prior speaks of the parts that know its kind.
    """

    parts: tuple[tuple[Family, int | None], ...]

    _example, _sign = "(jaxem.Full(), 2)", " + "

    def _checked(self, parts: Any) -> Any:
        for family, count in parts:
            if count is not None and (isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1):
                raise ValueError(
                    f"count = {count!r} of {family!r}; give a whole number of at least 1, or None for the rest"
                )
        if sum(count is None for _, count in parts) > 1:
            raise ValueError("count is None for two parts; give all but one a number")
        for what, every in (
            ("columns", {f.n_columns for f, _ in parts}),
            ("given columns", {f.n_given for f, _ in parts}),
        ):
            if len(every - {None}) > 1:
                raise ValueError(
                    f"parts take different numbers of {what}, {sorted(every - {None})}; give families of the same"
                )
        return tuple((family, None if count is None else int(count)) for family, count in parts)

    def _rows(self, x: Any) -> Sequence[Any]:
        return [x] * len(self.parts)

    def _share(self, values: Any, params: Any, axis: int = 0) -> Sequence[Any]:
        return cast(Sequence[Any], jnp.split(values, self._begins(params)[1:-1], axis=axis))

    def _join(self, values: list[Any], op: Callable[[Any, Any], Any], axis: int = 0) -> Any:
        return (np if isinstance(values[0], np.ndarray) else jnp).concatenate(values, axis=axis)

    def lengths(self, n_components: int) -> Sequence[int]:
        known, open_ = sum(count or 0 for _, count in self.parts), any(count is None for _, count in self.parts)
        if n_components < known + open_ or (n_components > known and not open_):
            asked = f"at least {known + 1}" if open_ else f"{known}"
            raise ValueError(f"n_components = {n_components} does not fit {self!r}; give {asked}")
        return [n_components - known if count is None else count for _, count in self.parts]

    def _begins(self, params: Any) -> list[int]:
        """The first component of each kind, and the number of all."""
        return [0, *np.cumsum(self._each(lambda f, p: f.length(p), params)).tolist()]

    interchangeable = False

    @property
    def n_given(self) -> int:
        return self.families[0].n_given

    @property
    def n_columns(self) -> int | None:
        return next((family.n_columns for family in self.families if family.n_columns is not None), None)

    @property
    def required_components(self) -> int | None:
        counts = [count for _, count in self.parts]
        return None if None in counts else sum(cast(list[int], counts))

    @property
    def location(self) -> bool | tuple[int, ...]:
        moving = [() if callable(f.location) else f.location for f in self.families]
        some = [set(own or ()) for own in moving if own is not True]
        return tuple(sorted(reduce(operator.and_, some))) or False if some else True

    @property
    def holes(self) -> bool | tuple[int, ...]:
        some = [set(f.holes or ()) for f in self.families if f.holes is not True]
        return tuple(sorted(reduce(operator.and_, some))) or False if some else True

    def _whole(self, found: list[Array], totals: list[Array], x: Array) -> Array:
        return reduce(operator.add, [total * own for own, total in zip(found, totals, strict=True)])

    def sample(self, key: Array, params: Any, labels: Array) -> Array:
        return self._draw_each(lambda f, *of: f.sample(*of), key, params, labels)

    def complete(self, key: Array, params: Any, labels: Array, given: Array) -> Array:
        return self._draw_each(lambda f, *of: f.complete(*of, given), key, params, labels)

    def _draw_each(self, draw: Callable[..., Array], key: Array, params: Any, labels: Array) -> Array:
        """Rows of each kind, of which the label picks one."""
        begins, rows = self._begins(params), []
        for i, (family, of) in enumerate(zip(self.families, params, strict=True)):
            own = jnp.clip(labels - begins[i], 0, begins[i + 1] - begins[i] - 1)
            rows.append(draw(family, jax.random.fold_in(key, i), of, own))
        kind = jnp.searchsorted(jnp.asarray(begins[1:]), labels, side="right")
        return jnp.stack(rows)[kind, jnp.arange(labels.shape[0])]

    def support(self, x: Any) -> Any:
        return reduce(operator.or_, self._each(lambda f: f.support(x)))

    def coordinates(self, x: Array, sample_weight: Array) -> Array:
        every = self._each(lambda f: f.coordinates(x, sample_weight))
        return next((own for own in every if own.shape[1]), every[0])

    def apart(self, params: Any, i: Array, j: Array) -> Array:
        begins, gap = self._begins(params), jnp.full((), jnp.inf, jax.tree.leaves(params)[0].dtype)
        for u, (family, of) in enumerate(zip(self.families, params, strict=True)):
            first, last = begins[u], begins[u + 1] - 1
            both = (jnp.minimum(i, j) >= first) & (jnp.maximum(i, j) <= last)
            own = family.apart(of, *(jnp.clip(index, first, last) - first for index in (i, j)))
            gap = jnp.where(both, own, gap)
        return gap

    def marginal(self, params: Any, columns: np.ndarray) -> tuple[Family, Any]:
        pairs = self._each(lambda f, p: f.marginal(p, columns), params)
        counts = self._each(lambda f, p: f.length(p), params)
        return Union(*zip([f for f, _ in pairs], counts, strict=True)), tuple(of for _, of in pairs)

    def conditional(
        self, params: Any, columns: np.ndarray, values: Array, others: np.ndarray
    ) -> tuple[Family, Any, Array]:
        every = self._each(lambda f, p: f.conditional(p, columns, values, others), params)
        counts = self._each(lambda f, p: f.length(p), params)
        family = Union(*zip([f for f, _, _ in every], counts, strict=True))
        return family, tuple(of for _, of, _ in every), jnp.concatenate([of_values for *_, of_values in every])

    def n_features(self, params: Any) -> int | None:
        return next(filter(_is_there, self._each(lambda f, p: f.n_features(p), params)), None)

    def subset(self, params: Any, index: Any) -> tuple[Family, Any]:
        """The components in `index`, in the order of the kinds; a kind without any is left out. Their numbers are known:
        they say which families there are."""
        if isinstance(index, jax.core.Tracer):
            raise TypeError("components of a Union are picked by numbers that are known; take them outside jit")
        begins = self._begins(params)
        chosen = np.arange(begins[-1])[index]
        kinds = np.searchsorted(begins, chosen, side="right") - 1
        if np.any(np.diff(kinds) < 0):
            raise ValueError(
                f"components {chosen.tolist()} are not in the order of the kinds; name those of the first kind first"
            )
        own = {u: self.families[u].subset(params[u], chosen[kinds == u] - begins[u]) for u in np.unique(kinds).tolist()}
        parts = [(family, int(np.sum(kinds == u))) for u, (family, _) in own.items()]
        return Union(*parts), tuple(of for _, of in own.values())

    def table(self, params: Any) -> dict[str, Any]:
        begins = self._begins(params)
        shown: dict[str, Any] = {}
        for u, of in enumerate(self._each(lambda f, p: f.table(p), params)):
            for name, values in of.items():
                whole = shown.setdefault(name, np.full((begins[-1], *np.shape(values)[1:]), np.nan))
                if np.shape(whole)[1:] == np.shape(values)[1:]:
                    whole[begins[u] : begins[u + 1]] = values
        return shown

    def row_floats(self, n_components: int, n_features: int) -> int:
        return max(n_components, *(family.row_floats(n_components, n_features) for family in self.families))


def _is_there(value: Any) -> bool:
    return value is not None


def _as_columns(columns: Any) -> tuple[int, ...]:
    several = (
        columns if isinstance(columns, (Sequence, range, np.ndarray)) and not isinstance(columns, str) else [columns]
    )
    if len(several) == 0 or not all(
        isinstance(c, (int, np.integer)) and not isinstance(c, bool) and c >= 0 for c in several
    ):
        raise ValueError(f"columns = {columns!r}; give the numbers of columns, from 0, such as (0, 1)")
    if len(set(several)) < len(several):
        raise ValueError(f"columns = {columns!r} names a column twice; give different ones")
    return tuple(int(c) for c in several)


def _moving(family: Family, n_columns: int) -> bool | tuple[int, ...]:
    """Which of a part's columns may move."""
    return family.location(n_columns) if callable(family.location) else family.location


def _scale(x: Array, w: Array, variance: int) -> Array:
    """Rows scaled so that the variances of their columns sum to `variance`."""
    if not x.shape[1]:
        return x
    total = jnp.sum(weighted_moments(x, w, matrix=False)[2])
    return x * jnp.sqrt(variance / jnp.where(total > 0, total, 1.0))
