"""Program: the door to XLA for whole computations. Each call chooses how much effort XLA spends on compilation, names the
remedy when memory runs out, waits for large results, and allows NaN where NaN is data. A long loop is made in pieces, so that
Ctrl-C is heard. In a process that was forked too late a call raises at once, where XLA would hang.

Small data spend their time in the compiler, not in the program. On a CPU XLA compiles two to four times faster without
its fusion emitters and at a lower level of LLVM's optimisation. Measured (jax 0.10, 2 cores): `BRISK` halves compilation
and costs nothing with few features, a factor of 2 with many; `HASTY` quarters it and makes programs 3 to 13 times slower.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxem.primitives import all_lanes, check_not_forked, is_traced

THOROUGH: Mapping[str, Any] = {}
BRISK: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
HASTY: Mapping[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}
SMALL = 2**22
"""numbers that a turn touches (rows x features x components x lanes) up to which compiling costs more than computing"""
HUGE = 2**28
"""arrays of more elements than this may not fit in memory"""
PIECE_SECONDS, FIRST_SECONDS = 0.25, 1.5
"""seconds that a piece of a long loop takes (or one turn, if that is longer), and the first: short climbs end in it"""
MOST_TURNS = 2**30
"""turns of one piece, at most"""


class Program:
    """A pure function, compiled when called: on a CPU with options that suit the work, elsewhere as jit does.

    Inside another jit the options have no effect: the function becomes part of that program.

    Args:
        function: what to compile.
        static_argnums: as for `jax.jit`.
        work: a function of the arguments: how many numbers one turn of the program touches.
        small: how to compile for work of at most `SMALL`.
        large: how to compile for more.
        nan_is_data: whether NaN in the result is no fault, such as the padding of a trace.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        static_argnums: tuple[int, ...] = (),
        *,
        work: Callable[..., float] = lambda *_: 0,
        small: Mapping[str, Any] = BRISK,
        large: Mapping[str, Any] = THOROUGH,
        nan_is_data: bool = False,
    ) -> None:
        self.static_argnums, self.work, self.nan_is_data = static_argnums, work, nan_is_data

        def compiled(options: Mapping[str, Any]) -> Any:
            return jax.jit(function, static_argnums=static_argnums, compiler_options=dict(options))

        self.plain: Any = jax.jit(function, static_argnums=static_argnums)
        self.small: Any = compiled(small) if small else self.plain
        self.large: Any = compiled(large) if large else self.plain
        self.has_options = self.small is not self.plain or self.large is not self.plain
        self.ahead: dict[Any, Any] = {}
        """programs that `compile_ahead` made, by `_key`; None while one is being compiled"""

    def __call__(self, *args: Any) -> Any:
        """`function(*args)`."""
        check_not_forked()
        if is_traced(*args) or (self.has_options and is_staging()):
            return self.plain(*args)
        quiet = jax.debug_nans(False) if self.nan_is_data else contextlib.nullcontext()
        with quiet, memory_remedy():
            result = self._run(args)
            large = (
                any(getattr(leaf, "size", 1) > HUGE for leaf in jax.tree.leaves((args, result)))
                or self.work(*args) > HUGE
            )
            # so a lack of memory is raised here, not later, where the result is read
            return jax.block_until_ready(result) if large else result

    def compile_ahead(self, *args: Any) -> threading.Thread:
        """Compile in the background for arguments like these, so that a call with such begins at once.

        Tracing holds Python's lock and is done before this returns; join the thread before the process ends. The thread
        does nothing if the program exists already.
        """
        check_not_forked()
        key = self._key(args)
        lowered = None if key in self.ahead else self._compiled_for(args).lower(*args)
        self.ahead.setdefault(key, None)

        def compile_it() -> None:
            if lowered is None:
                return
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the call raises it again
                self.ahead[key] = lowered.compile()

        thread = threading.Thread(target=compile_it, daemon=True)
        thread.start()
        return thread

    def _run(self, args: tuple[Any, ...]) -> Any:
        ahead = self.ahead.get(self._key(args)) if self.ahead else None
        if ahead is not None:
            return ahead(*(arg for i, arg in enumerate(args) if i not in self.static_argnums))
        try:
            return self._compiled_for(args)(*args)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):  # XLA's options come and go
                raise
            self.small = self.large = self.plain
            return self.plain(*args)

    def _compiled_for(self, args: tuple[Any, ...]) -> Any:
        if jax.default_backend() != "cpu":
            return self.plain
        return self.small if self.work(*args) <= SMALL else self.large

    def _key(self, args: tuple[Any, ...]) -> Any:
        static = tuple(args[i] for i in self.static_argnums)
        leaves, structure = jax.tree.flatten([arg for i, arg in enumerate(args) if i not in self.static_argnums])
        return static, structure, tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)


class Pace:
    """How many turns of a loop to make in one program, so that Ctrl-C and a callback are heard a few times a second.

    The first number comes from an estimate, the later ones from what the piece before took.

    Args:
        seconds: a rough estimate of the seconds of a turn.
    """

    def __init__(self, seconds: float) -> None:
        self.n_turns, self.begun = min(MOST_TURNS, max(1, int(FIRST_SECONDS / seconds))), math.nan

    def turns(self) -> np.int32:
        """The turns of the next piece, which begins now."""
        if not math.isnan(self.begun):
            pace = PIECE_SECONDS / max(time.perf_counter() - self.begun, 1e-6)
            self.n_turns = min(MOST_TURNS, max(1, int(self.n_turns * min(2.0, pace))))
        self.begun = time.perf_counter()
        return np.int32(self.n_turns)


def in_pieces(
    program: Program, climb: Any, options: tuple[Any, ...], fixed: tuple[Any, ...], most: int, seconds: float
) -> Any:
    """The last result of `program(climb, *options, n_turns, *fixed) -> (climb, result, going)`, called while `going`.

    In a trace it is called once, for the `most` turns that there are.
    """
    if is_traced(climb, options) or is_staging():
        return program(climb, *options, most, *fixed)[1]
    pace = Pace(seconds)
    while True:
        turns = min(pace.turns(), np.int32(most))
        climb, result, going = program(climb, *options, turns, *fixed)
        if turns >= most or not going:
            return result


@contextlib.contextmanager
def memory_remedy() -> Iterator[None]:
    """Replace XLA's fault for want of memory by one that names the remedy."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
            raise MemoryError(
                "out of memory; pass a smaller chunk_size, fewer restarts or a smaller max_iter"
            ) from error
        raise


def cores() -> int:
    """Number of cores that this process may use. A program that has the machine to itself asks JAX for as many devices."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_staging() -> bool:
    """Whether a program is being traced here, even if no argument shows it."""
    return is_traced(all_lanes(np.bool_(True)))  # type: ignore[arg-type]
