"""When is the climb over? The lecture's two rules, and the Status a climb ends with.

The lecture stops "when there is no noticeable change in the actual log-likelihood after the M-step" (`GainBelow`) or
"when the parameters no longer vary by much" (`StepBelow`). A rule is a pytree whose tolerance is traced, so changing it
compiles nothing; it sees one `Progress` per turn and knows nothing of mixtures. NaN satisfies no rule.
"""

import dataclasses
import enum
from typing import NamedTuple, Protocol

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
    """A component collapsed on too few points or too few dimensions; the likelihood has no maximum near there."""
    NONFINITE = 5
    """NaN or infinity where no component collapsed; the parameters are the last finite ones, or the given ones."""
    OBJECTIVE_FELL = 6
    """A plain EM step lowered the objective by more than rounding: the family's formulas disagree, or the data are
    at the edge of what the dtype can hold."""


class Progress(NamedTuple):
    """What a rule may look at after one turn. All `[]`."""

    gain: Array
    """rise of the objective per unit of sample weight"""
    step: Array
    """size of the last step of the parameters, free of units (`Family.step_size`)"""
    noise: Array
    """rounding error of `gain`"""


class StoppingRule(Protocol):
    """A callable pytree from `Progress` to a Status array: RUNNING to go on, else why to stop."""

    def __call__(self, progress: Progress) -> Array: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GainBelow:
    """Stop once a turn raises the objective by less than `tol` per unit of sample weight.

    The lecture's first rule. `GainBelow(-inf)` never stops. With `tol` below the rounding error of the gain the status
    is PRECISION_LIMITED, not CONVERGED.
    """

    tol: Array | float

    def __call__(self, progress: Progress) -> Array:
        reached = jnp.where(progress.noise > self.tol, Status.PRECISION_LIMITED, Status.CONVERGED)
        return jnp.where(progress.gain < self.tol, reached, Status.RUNNING)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepBelow:
    """Stop once no parameter moves by more than `tol` in one turn.

    The lecture's second rule. The size of a step is free of units: weights change by their difference, means in
    standard deviations, covariances relative to the variances.
    """

    tol: Array | float

    def __call__(self, progress: Progress) -> Array:
        return jnp.where(progress.step < self.tol, Status.CONVERGED, Status.RUNNING)
