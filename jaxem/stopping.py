"""When is the climb over? The lecture's two rules, and the Status a climb ends with.

The lecture stops "when there is no noticeable change in the actual log-likelihood after the M-step" (`GainBelow`) or
"when the parameters no longer vary by much" (`StepBelow`). A rule is a pytree whose tolerance is traced, so changing it
compiles nothing; it sees one `Progress` per turn and knows nothing of mixtures. NaN satisfies no rule.
"""

import dataclasses
import enum
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array


class Status(enum.IntEnum):
    """How a climb ended; an integer array in a `Result`, so that it survives `vmap`."""

    RUNNING = 0
    """Not ended (seen only inside the loop)."""
    CONVERGED = 1
    """The stopping rule was met."""
    MAX_ITER = 2
    """`max_iter` turns were made and the rule was not met."""
    PRECISION_LIMITED = 3
    """The rule was met, but by gains that rounding hides: the tolerance is finer than the arithmetic."""
    DEGENERATE = 4
    """A component lost its rows, or collapsed on a few rows or in a direction in which they do not vary: the objective has
    no maximum near there."""
    NONFINITE = 5
    """NaN or infinity where no component collapsed; the parameters are the last finite ones, or the given ones."""
    OBJECTIVE_FELL = 6
    """A plain EM step lowered the objective by more than rounding: the family's formulas disagree, or the data are
    at the edge of what the dtype can hold."""
    SADDLE = 7
    """Components coincide, or a direction leads up: a saddle of the objective, no maximum."""

    @property
    def failed(self) -> bool:
        """Whether the climb ended at no usable mixture: DEGENERATE, NONFINITE or SADDLE."""
        return bool(has_failed(self))

    @property
    def meaning(self) -> str:
        """What the status says, in words that follow a colon."""
        return _MEANINGS[self]


_MEANINGS = {
    Status.RUNNING: "the climb has not ended",
    Status.CONVERGED: "the stopping rule was met",
    Status.MAX_ITER: "not converged, raise max_iter",
    Status.PRECISION_LIMITED: "converged as far as rounding allows; the tolerance is finer than that",
    Status.DEGENERATE: "a component lost its rows or collapsed; the likelihood has no maximum near there",
    Status.NONFINITE: "the objective became NaN or infinite; the parameters are the last finite ones",
    Status.OBJECTIVE_FELL: "the objective fell by more than rounding; rescale the data or use float64",
    Status.SADDLE: "components coincide, or a direction leads up; start elsewhere or lower the number of components",
}


def has_failed(status: Any) -> Any:
    """`Status.failed` of a status, or of each entry of an integer array of numpy or jax."""
    return (status == Status.DEGENERATE) | (status == Status.NONFINITE) | (status == Status.SADDLE)


class Progress(NamedTuple):
    """What a rule may look at after one turn. All `[]`."""

    gain: Array
    """rise of the objective per unit of sample weight"""
    step: Array
    """size of the EM step from where the climb is now, free of units (`Family.step_size`)"""
    noise: Array
    """rounding error of `gain`"""
    objective: Array
    """where the climb is now, in nats"""
    total_weight: Array
    """sum of the sample weights"""
    previous_gain: Array
    """`gain` of the turn before; NaN if there was none"""
    remaining_gain: Array
    """estimated rise of the objective still to come, in nats; NaN if unknown"""
    receding: Array
    """whether `step` is larger than it was: the climb is leaving a plateau or a saddle, however little it gains"""


class StoppingRule(Protocol):
    """A callable pytree from `Progress` to a Status array: RUNNING to go on, else why to stop.

    A rule with an attribute `patience` must be met that many turns in a row.
    """

    def __call__(self, progress: Progress) -> Array: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GainBelow:
    """Stop once a turn raises the objective by less than `tol` per unit of sample weight.

    The lecture's first rule. `GainBelow(-inf)` never stops. With `tol` below the rounding error of the gain the status
    is PRECISION_LIMITED, not CONVERGED.
    """

    tol: Array | float

    def __post_init__(self) -> None:
        _check_number("tol", self.tol, -float("inf"))

    def __call__(self, progress: Progress) -> Array:
        return _stop_if(progress.gain < self.tol, progress.noise > self.tol)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepBelow:
    """Stop once no parameter would move by more than `tol` in an EM step.

    The lecture's second rule. The size of a step is free of units: weights change by their difference, means in
    standard deviations, covariances relative to the variances.
    """

    tol: Array | float

    def __post_init__(self) -> None:
        _check_number("tol", self.tol, 0.0)

    def __call__(self, progress: Progress) -> Array:
        return jnp.where(progress.step < self.tol, Status.CONVERGED, Status.RUNNING)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RemainingGainBelow:
    """Stop once what is left to gain is estimated below `tol` nats in all, and an EM step moves nothing by `step`.

    Unlike the gain of one turn, what is left does not depend on how slow EM is. A plateau whose steps grow does not end
    the climb, and the rule must be met twice in a row. Where rounding hides what is left the status is PRECISION_LIMITED.

    Attributes:
        tol: nats.
        step: size of the EM step, free of units as for `StepBelow`.
    """

    tol: Array | float
    step: Array | float = 1e-3
    patience: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_number("tol", self.tol, 0.0)
        _check_number("step", self.step, 0.0)

    def __call__(self, progress: Progress) -> Array:
        noise = progress.noise * progress.total_weight
        near = (progress.remaining_gain < jnp.maximum(self.tol, noise)) & (progress.step < self.step)
        drowned = progress.gain < progress.noise
        return _stop_if((near | drowned) & ~progress.receding, noise > self.tol)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AitkenBelow:
    """Stop once Aitken's estimate of what plain EM has left to gain is below `tol` nats.

    With a the ratio of the last two gains, that is gain a / (1 - a) (Boehning et al. 1994; McNicholas 2010). It holds for
    plain EM once gains shrink geometrically; on a plateau, where a > 1, it does not stop.
    """

    tol: Array | float

    def __post_init__(self) -> None:
        _check_number("tol", self.tol, 0.0)

    def __call__(self, progress: Progress) -> Array:
        ratio = progress.gain / progress.previous_gain
        shrinking = (ratio >= 0) & (ratio < 1) & jnp.isfinite(progress.previous_gain)
        left = progress.gain * progress.total_weight * ratio / jnp.where(shrinking, 1.0 - ratio, 1.0)
        noise = progress.noise * progress.total_weight
        return _stop_if(shrinking & (left < self.tol), noise > self.tol)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RelativeGainBelow:
    """Stop once a turn raises the objective by less than `tol (1 + |objective|)`, as mclust does (its tol is 1e-5)."""

    tol: Array | float

    def __post_init__(self) -> None:
        _check_number("tol", self.tol, 0.0)

    def __call__(self, progress: Progress) -> Array:
        unit = (1.0 + jnp.abs(progress.objective)) / progress.total_weight
        return _stop_if(progress.gain < self.tol * unit, progress.noise > self.tol * unit)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TotalGainBelow:
    """Stop once a turn raises the objective by less than `tol` nats in all."""

    tol: Array | float

    def __post_init__(self) -> None:
        _check_number("tol", self.tol, 0.0)

    def __call__(self, progress: Progress) -> Array:
        unit = 1.0 / progress.total_weight
        return _stop_if(progress.gain < self.tol * unit, progress.noise > self.tol * unit)


def _stop_if(met: Array, hidden: Array) -> Array:
    """The status of a rule that is met or not, by numbers that rounding hides or not."""
    return jnp.where(met, jnp.where(hidden, Status.PRECISION_LIMITED, Status.CONVERGED), Status.RUNNING)


def _check_number(name: str, value: Any, least: float) -> None:
    # what is traced, or a placeholder of a pytree, is not looked at
    if isinstance(value, (int, float)) and not value >= least:
        asked = "a number" if least < 0 else "a number of at least 0"
        raise ValueError(f"{name} = {value}; give {asked}, such as 1e-8")
