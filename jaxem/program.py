"""Program: the door to XLA for whole computations. Each call chooses how much effort XLA spends on compilation, names the
remedy when memory runs out, waits for large results, and allows NaN where NaN is data. A long loop is made in pieces, so that
Ctrl-C is heard. In a process that was forked too late a call raises at once, where XLA would hang. A program is compiled
once for each kind of arguments, and on a CPU kept for the next process (kept.py).

Small data spend their time in the compiler, not in the program. On a CPU XLA compiles two to four times faster without
its fusion emitters and at a lower level of LLVM's optimisation. Measured (jax 0.10, 2 cores): `BRISK` halves compilation
and costs nothing with few features, a factor of 2 with many; `HASTY` quarters it and makes programs 3 to 13 times slower.
Both compile in one piece: in several, on all cores, they take a third more CPU seconds and the same time on two cores.
"""

import contextlib
import functools
import importlib
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxem import kept
from jaxem.primitives import all_lanes, check_not_forked, is_traced

T = TypeVar("T")
THOROUGH: Mapping[str, Any] = {}
BRISK: dict[str, Any] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_backend_optimization_level": 1,
}
HASTY: Mapping[str, Any] = {**BRISK, "xla_backend_optimization_level": 0}
SMALL = 2**22
"""numbers that a turn touches (rows x features x components x lanes) up to which compiling costs more than computing"""
HUGE = 2**28
"""arrays of more elements than this may not fit in memory"""
PIECE_SECONDS, FIRST_SECONDS = 0.25, 1.5
"""seconds that a piece of a long loop takes (or one turn, if that is longer), and the first: short climbs end in it"""
MOST_TURNS = 2**30
"""turns of one piece, at most"""
SCOPES: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("jax_enable_x64", jax.enable_x64),
    ("jax_debug_nans", jax.debug_nans),
    ("jax_numpy_rank_promotion", jax.numpy_rank_promotion),
    ("jax_numpy_dtype_promotion", jax.numpy_dtype_promotion),
    ("jax_default_matmul_precision", jax.default_matmul_precision),
    ("jax_default_device", jax.default_device),
)
"""JAX's settings that hold for one thread: those of the caller hold in the threads that work for it"""
MOST_MADE = 512
"""programs that one function has in memory, at most"""

_programs: "weakref.WeakSet[Program]" = weakref.WeakSet()
_claiming = threading.Lock()


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
        self.function, self.static_argnums, self.work, self.nan_is_data = function, static_argnums, work, nan_is_data
        self.options = (dict(small), dict(large))

        def compiled(options: Mapping[str, Any]) -> Any:
            return jax.jit(function, static_argnums=static_argnums, compiler_options=dict(options))

        self.plain: Any = jax.jit(function, static_argnums=static_argnums)
        self.small: Any = compiled(small) if small else self.plain
        self.large: Any = compiled(large) if large else self.plain
        self.has_options = self.small is not self.plain or self.large is not self.plain
        self.made: dict[Any, Future[Any]] = {}
        """programs by the kind of their arguments; a Future is not done while its program is being compiled"""
        _programs.add(self)

    def __reduce__(self) -> Any:
        """Another process has the same program under its name in the module."""
        module = self.function.__module__
        name = next(name for name, value in vars(sys.modules[module]).items() if value is self)
        return _program_named, (module, name)

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

    def exists(self, *args: Any) -> bool:
        """Whether the program for arguments like these is here, or kept and now loaded: then a call begins at once."""
        kind = self._kind(args)
        if kind is None or kind in self.made:
            return kind is not None
        program = kept.load(name) if (name := self._name(kind, args)) else None
        if program is None:
            return False
        made, mine = self._claim(kind)
        if mine:
            made.set_result(program)
        return True

    def compile_ahead(self, *args: Any) -> threading.Thread:
        """Compile in the background for arguments like these, so that a call with such begins at once.

        Tracing holds Python's lock and is done before this returns, if the program is not kept; join the thread before the
        process ends. The thread does nothing if the program exists already.
        """
        check_not_forked()
        kind = self._kind(args)
        made, mine = self._claim(kind) if kind is not None else (Future(), False)
        name = self._name(kind, args) if mine else None
        is_kept = bool(name) and kept.is_kept(str(name))
        traced = self._begin(kind, made, args) if mine and not is_kept else None

        def make() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the call raises it again
                if mine:
                    (traced or self._begin(kind, made, args))()

        thread = threading.Thread(target=under_scopes(make), daemon=True)
        thread.start()
        return thread

    def _run(self, args: tuple[Any, ...]) -> Any:
        kind = self._kind(args)
        if kind is None:
            return self._jit_for(args)(*args)
        made, mine = self._claim(kind)
        if mine:
            self._begin(kind, made, args)()
        return made.result()(*(arg for i, arg in enumerate(args) if i not in self.static_argnums))

    def _claim(self, kind: Any) -> "tuple[Future[Any], bool]":
        """The Future of a program, and whether nobody has begun it, so that the caller must now make it."""
        with _claiming:
            if kind in self.made:
                return self.made[kind], False
            if len(self.made) >= MOST_MADE:
                del self.made[next(iter(self.made))]
            made = self.made[kind] = Future()
            return made, True

    def _begin(self, kind: Any, made: "Future[Any]", args: tuple[Any, ...]) -> Callable[[], None]:
        """Load or trace the program; what is returned compiles and keeps it, if that is left to do."""
        with self._answerable(kind, made):
            name = self._name(kind, args)
            loaded = kept.load(name) if name else None
            lowered = None if loaded is not None else self._jit_for(args).lower(*args)

        def finish() -> None:
            with self._answerable(kind, made):
                program = loaded if lowered is None else self._compile(lowered, args)
                if name and lowered is not None:
                    kept.save(name, program)
                made.set_result(program)

        return finish

    @contextlib.contextmanager
    def _answerable(self, kind: Any, made: "Future[Any]") -> Iterator[None]:
        """Whoever waits for a program gets the exception that ended its making; the next call tries again."""
        try:
            yield
        except BaseException as error:
            self.made.pop(kind, None)
            made.set_exception(error)
            raise

    def _compile(self, lowered: Any, args: tuple[Any, ...]) -> Any:
        try:
            return lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):  # XLA's options come and go
                raise
            self.small = self.large = self.plain
            return self.plain.lower(*args).compile()

    def _jit_for(self, args: tuple[Any, ...]) -> Any:
        if jax.default_backend() != "cpu":
            return self.plain
        return self.small if self.work(*args) <= SMALL else self.large

    def _kind(self, args: tuple[Any, ...]) -> Any:
        """What decides the program: static arguments, structure, shapes and dtypes, settings. None if jit has to decide,
        because arguments lie on other devices or JAX is set to debug.
        """
        config: Any = jax.config
        if config.jax_debug_nans or config.jax_debug_infs or config.jax_disable_jit or config.jax_default_device:
            return None
        static = tuple(args[i] for i in self.static_argnums)
        leaves, structure = jax.tree.flatten([arg for i, arg in enumerate(args) if i not in self.static_argnums])
        if any(isinstance(leaf, jax.Array) and leaf.sharding != _here() for leaf in leaves):
            return None
        shapes = tuple(
            (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) if hasattr(leaf, "shape") else type(leaf)
            for leaf in leaves
        )
        return static, structure, shapes, *(getattr(config, name) for name, _ in SCOPES)

    def _name(self, kind: Any, args: tuple[Any, ...]) -> str | None:
        """The name under which the program is kept; None if it is not."""
        if jax.default_backend() != "cpu" or jax.process_count() > 1:
            return None
        return kept.name_of([self.function, self.options, self.work(*args) <= SMALL, kind])


def _program_named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def forget_programs() -> None:
    """Give up all compiled programs of this process, those of JAX too."""
    for program in _programs:
        program.made.clear()
    jax.clear_caches()


def under_scopes(work: Callable[[], T]) -> Callable[[], T]:
    """`work` as it would be here, for another thread: under the settings of JAX that hold in this one."""
    here = settings()

    def there() -> T:
        with under(here):
            return work()

    return there


def settings() -> dict[str, Any]:
    """JAX's settings that hold in this thread."""
    return {name: getattr(jax.config, name) for name, _ in SCOPES}


@contextlib.contextmanager
def under(values: Mapping[str, Any]) -> Iterator[None]:
    """A scope in which these settings of JAX hold in this thread."""
    with contextlib.ExitStack() as stack:
        for name, scope in SCOPES:
            if name in values and getattr(jax.config, name) != values[name]:
                stack.enter_context(scope(values[name]))
        yield


@functools.cache
def _here() -> SingleDeviceSharding:
    """How arguments lie that nobody has put anywhere."""
    return SingleDeviceSharding(jax.local_devices()[0])


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
    program: Program,
    climb: Any,
    options: tuple[Any, ...],
    fixed: tuple[Any, ...],
    most: int,
    seconds: float,
    entry: Any = None,
    told: Callable[[Any], None] | None = None,
) -> Any:
    """The last result of `program(climb, *options, n_turns, *fixed) -> (climb, result, going)`, called while `going`.

    In a trace it is called once, for the `most` turns that there are. An `entry` of a journal remembers the climb, and
    `told` gets each result.
    """
    if is_traced(climb, options) or is_staging():
        return program(climb, *options, most, *fixed)[1]
    if entry is not None:  # of no turns, for the kind of pytree that a climb is
        climb = entry.restore(program(climb, *options, np.int32(0), *fixed)[0])
    pace = Pace(seconds)
    while True:
        turns = min(pace.turns(), np.int32(most))
        climb, result, going = program(climb, *options, turns, *fixed)
        if entry is not None:
            entry.save(climb)
        if told is not None:
            told(result)
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


def is_staging() -> bool:
    """Whether a program is being traced here, even if no argument shows it."""
    return is_traced(all_lanes(np.bool_(True)))  # type: ignore[arg-type]
