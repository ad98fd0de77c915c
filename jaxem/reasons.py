"""Reasons: why components collapse, in words. Which component, which rows, which combination of columns, and what to do.

A reason may lie in all the data: a column that is constant, columns that depend on each other, few distinct rows. Or it lies
in the rows that a component mostly owns: a few of them, many equal ones, rows in which a combination a'x of the columns does
not vary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxem.dependence import dependence, in_words, number_in_words, round_coefficients, shortest
from jaxem.display import count_of
from jaxem.families.deconvolved import Deconvolved
from jaxem.families.gaussian import FEW, MIN_EIGENVALUE, Gaussian
from jaxem.linalg import SINGULAR
from jaxem.standard import Standard

LISTED = 4
"""rows whose numbers a text names, and up to which a component sits on these rows alone"""
KEPT = 16
"""rows whose numbers a `Collapse` keeps"""
MOST_NAMED = 8
"""columns or values that a text names"""
EXACT = 8
"""units of rounding of its terms within which a combination equals its value"""
FEWER, ELSEWHERE = "lower the number of components", "start elsewhere"
PRIOR = "give a prior such as jaxem.chen_tan(x)"


@dataclasses.dataclass(frozen=True, eq=False)
class Collapse:
    """Why the likelihood has no maximum near a mixture; `print` shows the reason and what to do.

    Attributes:
        component: the component that has collapsed; None if all have, or none in particular.
        n_rows: how many rows it mostly owns; all rows that count if all components have collapsed.
        rows: the numbers of these rows, from 0; the first 16.
        combination: coefficients `[d]` of the columns, in the units of the data, of a sum that does not vary in the
            component; one of them if there are several. None if the component has merely lost its rows or has too few.
        value: what that sum equals; `[k]`, its value in each component, where they share a covariance. None without one.
        cause: the reason, a template: `{0}` is column 0 in a sum, `{alone[0]}` by itself, `{rows}` and `{numbers}` the rows.
        remedy: what to do.
    """

    component: int | None
    n_rows: int
    rows: tuple[int, ...]
    combination: np.ndarray | None
    value: Any
    cause: str
    remedy: str
    n_columns: int

    def reason(self, columns: Sequence[str] | None = None, first_row: int = 0) -> str:
        """The reason without the remedy; see `text` for the arguments."""
        if columns is not None and len(columns) != self.n_columns:
            raise ValueError(f"columns holds {len(columns)} names; give one for each of the {self.n_columns} columns")
        plain = [f"column {j}" for j in range(self.n_columns)]
        names = plain if columns is None else [_in_a_sum(str(name)) for name in columns]
        alone = plain if columns is None else [f"column {str(name)!r}" for name in columns]
        numbers = _listed([str(row + first_row) for row in self.rows[:LISTED]], self.n_rows)
        rows = f"{'row' if self.n_rows == 1 else 'rows'} {numbers}"
        return self.cause.format(*names, alone=alone, rows=rows, numbers=numbers)

    def text(self, columns: Sequence[str] | None = None, first_row: int = 0) -> str:
        """The reason and the remedy, in one line.

        Args:
            columns: the names of the columns; by default "column 0", "column 1" and so on.
            first_row: the number of the first row.

        Raises:
            ValueError: if there are more or fewer names than columns.
        """
        return f"{self.reason(columns, first_row)}: {self.remedy}"

    def __str__(self) -> str:
        return self.text()


class Combination(NamedTuple):
    """A sum of columns that does not vary, or hardly."""

    coefficients: np.ndarray  # [d], in the units of the data
    value: Any  # a number, or [k]
    words: str  # an equation, a template
    nearly: bool  # whether it varies by more than rounding

    @property
    def is_column(self) -> bool:
        """Whether it is one column alone."""
        return int(np.count_nonzero(self.coefficients)) == 1

    def dependence(self, where: str) -> str:
        """That the columns depend on each other, a template; `where` begins with a blank, or is empty."""
        terms = np.flatnonzero(self.coefficients)
        how = f"{'nearly ' * self.nearly}depend on each other"
        if len(terms) <= MOST_NAMED:
            return f"columns {how} ({self.words}{where})"
        return f"{len(terms)} columns {how}{where} ({_listed([f'{{{j}}}' for j in terms[:MOST_NAMED]], len(terms))})"


@dataclasses.dataclass(frozen=True)
class Reasons:
    """Why components of a family collapse on some data."""

    data: Standard
    family: Any
    k: int
    eps: float  # of the dtype of the mixture

    @property
    def fewer(self) -> str:
        """What to do where components are too many."""
        return FEWER if self.k > 1 else "use a simpler family of covariances"

    def of_all(self, cause: str, remedy: str, found: Combination | None = None) -> Collapse:
        """A reason that no single component has."""
        return self._reason(0 if self.k == 1 else None, self.data, cause, remedy, found)

    def _reason(
        self, component: int | None, part: Standard, cause: str, remedy: str, found: Combination | None = None
    ) -> Collapse:
        combination, value = (None, None) if found is None else (found.coefficients, found.value)
        numbers = tuple(int(row) for row in part.numbers[:KEPT])
        return Collapse(component, len(part.w), numbers, combination, value, cause, remedy, part.x.shape[1])

    def out_of_range(self, dtype: np.dtype) -> Collapse | None:
        """A column whose squares the dtype cannot hold."""
        data, info = self.data, np.finfo(dtype)
        remedy = (
            f"rescale {'it' if data.x.shape[1] > 1 else 'the data'}{'' if dtype.itemsize == 8 else ', or use float64'}"
        )
        spread = np.where(data.varies, data.unit, 0.0)
        large, small = int(np.argmax(spread)), int(np.argmin(np.where(data.varies, spread, np.inf)))
        if spread[large] > np.sqrt(float(info.max) / data.x.size):
            return self.of_all(f"the squares of {{alone[{large}]}} overflow {dtype}", remedy)
        judged = large if is_spherical(self.family) else small
        if data.varies.any() and spread[judged] < np.sqrt(float(info.tiny)):
            varies = f"{{alone[{judged}]}} varies by {spread[judged]:.1g} alone"
            return self.of_all(f"{varies}, and {dtype} cannot hold the square of that", remedy)
        return None

    def of_few_distinct(self, most: int) -> Collapse | None:
        """That at most `most` rows differ."""
        distinct = self.data.distinct(most)
        if distinct > most:
            return None
        are = f"there {'is' if distinct == 1 else 'are'} {count_of(distinct, 'distinct row')}"
        return self.of_all(f"{are} for {count_of(self.k, 'component')}", FEWER)

    def of_all_rows(self) -> Collapse | None:
        """A reason for a collapse of Gaussians that lies in all the data, whatever the component."""
        data, k = self.data, self.k
        n, d = data.x.shape
        if k > 1:
            few = self.of_few_distinct(k)
            if few is not None:
                return few
        if not data.varies.any():
            cause = "there is only one row" if n == 1 else f"all {n} rows are equal"
            return self.of_all(cause, "a density needs rows that differ", None if n == 1 else _of_column(data, 0))
        constant = np.flatnonzero(~data.varies)
        if constant.size and not is_spherical(self.family):
            one, found = constant.size == 1, _of_column(data, int(constant[0]))
            names = _listed([f"{{alone[{j}]}}" for j in constant[:MOST_NAMED]], constant.size)
            cause = f"{names} {'is' if one else 'are'} constant"
            value = f" ({number_in_words(found.value)} in all {n} rows)" if one else ""
            cause += f"{value}, so {'its variance is' if one else 'their variances are'} zero"
            return self.of_all(cause, f"leave {'it' if one else 'them'} out", found)
        if not self.family.by_matrices:
            return None
        if n <= d:
            needs = f"a covariance matrix of {count_of(d, 'column')} needs at least {count_of(d + 1, 'row')}"
            return self.of_all(f"{needs}, there {'is' if n == 1 else 'are'} {n}", "use Diagonal() or Spherical()")
        depend = self._combination(data, few=k == 1 and n < FEW * (d + 1))
        if depend is None:
            return None
        return self.of_all(depend.dependence(f" in all {n} rows"), "leave one of them out, or use Diagonal()", depend)

    def of_shared(self, owner: np.ndarray) -> Collapse:
        """Why a covariance that all components share has collapsed; it does so as a whole."""
        data, k = self.data, self.k
        n, d = data.x.shape
        found = self._combination(data, few=n < FEW * (d + 1), owner=owner)
        if found is None or n - k < d:
            cause = (
                f"{count_of(n, 'row')} leave too little spread about {count_of(k, 'mean')} in {count_of(d, 'column')}"
            )
            simpler = "" if is_spherical(self.family) else ", or use Diagonal() or Spherical()"
            return self.of_all(cause, f"{self.fewer}{simpler}")
        if found.is_column:
            column, varies = int(np.argmax(found.coefficients)), "hardly varies" if found.nearly else "does not vary"
            cause = f"{{alone[{column}]}} {varies} within any component ({found.words})"
            return self.of_all(cause, f"{self.fewer}, leave it out, or {PRIOR}", found)
        remedy = f"{self.fewer}, leave one of them out, or {PRIOR}"
        return self.of_all(found.dependence(" within each component"), remedy, found)

    def of_component(self, j: int, owner: np.ndarray) -> Collapse:
        """The reason that lies in the rows of component j."""
        part, family = self.data.part(np.flatnonzero(owner == j)), self.family
        n, d = part.x.shape
        if n == 0:
            return self.of_lost(np.array([j]))
        on_rows = "{rows} alone" if n <= LISTED else f"{n} rows ({{numbers}})"
        head, or_prior = f"component {j} sits on {on_rows}", f", or {PRIOR}"
        if not isinstance(family, Gaussian) or isinstance(family, Deconvolved):
            return self._reason(j, part, f"component {j} has collapsed on {on_rows}", f"{self.fewer}, or give a prior")
        if n == 1:
            return self._reason(j, part, head, f"{self.fewer}{or_prior}")
        if part.distinct(1) == 1:
            equal = _of_column(part, int(np.argmax(self.data.varies)))
            if n <= LISTED:
                return self._reason(j, part, f"{head}, which are equal", f"{self.fewer}{or_prior}", equal)
            values = [f"{{{i}}} = {number_in_words(part.x[0, i])}" for i in range(min(d, MOST_NAMED))]
            cause = f"component {j} sits on {n} equal rows ({_listed(values, d)})"
            return self._reason(j, part, cause, f"leave these rows out{or_prior}", equal)
        if is_spherical(family):
            return self._reason(j, part, f"{head}, which hardly differ", f"{self.fewer}{or_prior}")
        if family.by_matrices and n <= d:
            cause = f"{head}, and a covariance matrix of {count_of(d, 'column')} needs at least {d + 1}"
            return self._reason(j, part, cause, f"{self.fewer}, use Diagonal() or Spherical(){or_prior}")
        found = self._combination(part, few=n < FEW * (d + 1))
        if found is None:
            return self._reason(j, part, head, f"{self.fewer}{or_prior}")
        if found.is_column:
            cause = (
                f"{head}, where {found.words}" if n <= LISTED else f"component {j} sits on {n} rows with {found.words}"
            )
            remedy = f"leave these rows or this column out{or_prior}"
            return self._reason(j, part, cause, f"{self.fewer}{or_prior}" if n <= LISTED else remedy, found)
        if n < FEW * (d + 1):
            remedy = f"{self.fewer}, use Diagonal(){or_prior}"
            return self._reason(j, part, f"{head}, where {found.dependence('')}", remedy, found)
        remedy = f"leave one of them out, use Diagonal(){or_prior}"
        return self._reason(j, part, found.dependence(f" in the {n} rows of component {j}"), remedy, found)

    def of_lost(self, lost: np.ndarray) -> Collapse:
        """That components have no rows."""
        names = _listed([str(j) for j in lost[:MOST_NAMED]], lost.size)
        have = "component {} has lost all its rows" if lost.size == 1 else "components {} have lost all their rows"
        nothing = self.data.part(np.zeros(0, int))
        return self._reason(int(lost[0]), nothing, have.format(names), f"{FEWER}, or {ELSEWHERE}")

    def of_coinciding(self, group: list[int], owner: np.ndarray) -> Collapse | None:
        """That components are equal."""
        if not group:
            return None
        few = self.of_few_distinct(self.k - 1)
        if few is not None:
            return few
        part = self.data.part(np.flatnonzero(np.isin(owner, group)))
        names = _listed([str(j) for j in group[:MOST_NAMED]], len(group))
        return self._reason(group[0], part, f"components {names} coincide", f"{FEWER}, or {ELSEWHERE}")

    def _combination(self, part: Standard, *, few: bool, owner: np.ndarray | None = None) -> Combination | None:
        """What does not vary in some rows, or within the rows of each `owner` `[n]`; of `few` rows also what hardly does."""
        k = 1 if owner is None else self.k
        labels = np.zeros(len(part.w), int) if owner is None else owner
        one_hot = np.eye(k)
        counts, means, second = part.moments(lambda rows, z: one_hot[labels[rows]], k, matrix=True)
        inner = np.ix_(part.varies, part.varies)
        covariance = np.einsum("k,kij->ij", counts / counts.sum(), second)[inner]
        if not self.family.by_matrices:
            covariance = np.diag(np.diagonal(covariance))
        vector = dependence(covariance, MIN_EIGENVALUE if few else SINGULAR * self.eps)
        if vector is None:
            return None
        coefficients = np.zeros(part.x.shape[1])
        coefficients[part.varies] = round_coefficients(vector, covariance, part.unit[part.varies])
        scaled = coefficients * part.unit
        apart = max(float(np.max(np.abs((z - means[labels[rows]]) @ scaled))) for rows, z in part.chunks())
        largest = np.abs(coefficients) @ np.maximum(np.abs(part.centre) + part.unit, np.max(np.abs(part.x), axis=0))
        rounding = EXACT * float(np.finfo(part.x.dtype).eps * largest)
        nearly = apart > rounding
        values = [shortest(value, max(apart, rounding)) for value in coefficients @ part.centre + means @ scaled]
        words = in_words(coefficients, values)
        words += f" to within {apart:.1g}" if nearly else ""
        return Combination(coefficients, values[0] if owner is None else np.array(values), words, nearly)


def is_spherical(family: Any) -> bool:
    """Whether all features of a Gaussian family have one variance."""
    return family.covariance_shape(1, 2) in ((1,), ())


def _of_column(part: Standard, j: int) -> Combination:
    """A column that is constant."""
    value = float(part.x[0, j])
    return Combination(np.eye(part.x.shape[1])[j], value, f"{{{j}}} = {number_in_words(value)}", False)


def _listed(items: Sequence[str], total: int) -> str:
    """`a, b and c`, or `a, b and 7 more` where not all of `total` are given."""
    rest = total - len(items)
    head, last = (items, f"{rest} more") if rest > 0 else (items[:-1], items[-1] if items else "")
    return f"{', '.join(head)} and {last}" if head else last


def _in_a_sum(name: str) -> str:
    """A name of a column as it stands in a sum; in quotes where it would be read as several terms."""
    return name if name.replace("_", "").replace(".", "").isalnum() else repr(name)
