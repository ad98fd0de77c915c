"""How programs are compiled: for speed, or quickly where there is little to compute.

Small data spend their time in the compiler, not in the program. On a CPU XLA compiles two to four times faster without
its fusion emitters and at a lower level of LLVM's optimisation. Measured (jax 0.10, 2 cores): `BRISK` halves compilation
and costs nothing with few features, a factor of 2 with many; `HASTY` quarters it and makes programs 3 to 13 times slower.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxem.families.base import all_lanes
from jaxem.rows import is_traced

BRISK: Mapping[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
HASTY: Mapping[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}
SMALL = 2**22
"""numbers that a turn touches (rows x features x components x lanes) up to which compiling costs more than computing"""


class Compiled:
    """A pure function compiled on demand: on a CPU with options that suit the work, elsewhere as jit does.

    Inside somebody's jit there is nothing to choose: it becomes part of their program.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        static_argnums: tuple[int, ...] = (),
        *,
        small: Mapping[str, Any] = BRISK,
        large: Mapping[str, Any] | None = None,
    ) -> None:
        self.static_argnums = static_argnums
        self.plain = jax.jit(function, static_argnums=static_argnums)
        self.small = jax.jit(function, static_argnums=static_argnums, compiler_options=dict(small))
        self.large = (
            self.plain
            if large is None
            else jax.jit(function, static_argnums=static_argnums, compiler_options=dict(large))
        )
        self.ahead: dict[Any, Any] = {}

    def __call__(self, *args: Any, work: float) -> Any:
        """`function(*args)`, whose every turn touches about `work` numbers."""
        ahead = self.ahead.get(self._key(args)) if self.ahead else None
        if ahead is not None:
            return ahead(*(arg for i, arg in enumerate(args) if i not in self.static_argnums))
        program = self._program(args, work)
        try:
            return program(*args)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):  # XLA's options come and go
                raise
            self.small = self.large = self.plain
            return self.plain(*args)

    def compile_ahead(self, *args: Any, work: float) -> threading.Thread:
        """Compile in the background for arguments like these, so that a call with such begins at once.

        Tracing holds Python's lock and is done before this returns; join the thread before the process ends.
        """
        lowered = self._program(args, work).lower(*args)

        def compile_it() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the call meets it again, and knows what to do
                self.ahead[self._key(args)] = lowered.compile()

        thread = threading.Thread(target=compile_it, daemon=True)
        thread.start()
        return thread

    def _program(self, args: tuple[Any, ...], work: float) -> Any:
        if jax.default_backend() != "cpu" or is_traced(*args) or staging():
            return self.plain
        return self.small if work <= SMALL else self.large

    def _key(self, args: tuple[Any, ...]) -> Any:
        static = tuple(args[i] for i in self.static_argnums)
        leaves, structure = jax.tree.flatten([arg for i, arg in enumerate(args) if i not in self.static_argnums])
        return static, structure, tuple((jax.numpy.shape(leaf), jax.numpy.result_type(leaf)) for leaf in leaves)


def cores() -> int:
    """Cores that this process may use: as many host devices a program that computes alone should ask JAX for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def staging() -> bool:
    """Whether a program is being traced here, even if no argument shows it."""
    return is_traced(all_lanes(np.bool_(True)))  # type: ignore[arg-type]
