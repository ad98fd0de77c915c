"""The process of a command: its thread and exit codes, how JAX starts, its lines on stderr and the bar that shows progress.

XLA cannot be stopped while it computes, so the work runs in a thread and the main thread waits for it and for signals.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from jaxem.cli.signals import CODES, leave

_DEBUGGING: list[bool] = []
"""holds True once --debug was given"""


class WorkError(Exception):
    """The work failed in a way that was foreseen; the message is what the user reads."""


class UsageError(WorkError):
    """What was asked for cannot be done whatever the data: exit code 2."""


def printable(text: str) -> str:
    """Text that is safe for a terminal: characters that it would obey, not show, are written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def note(text: str) -> None:
    """Say something in a line on stderr."""
    print(f"jaxem: note: {printable(text)}", file=sys.stderr)


def run_command_line(app: Callable[..., object]) -> None:
    """The life of the process, from the streams to the exit code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # it was closed before we began: that is no worse than a reader who has left
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it stays open as long as the process lives
        else:
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter is no error
    try:
        app(prog_name="jaxem")
    except OSError as error:  # --help into a full disk
        _drop_stdout()
        if error.errno != errno.EPIPE:
            print(f"jaxem: error: {error}", file=sys.stderr)
            sys.exit(1)


def run(work: Callable[[], None]) -> None:
    """Do the work in a thread, so that Ctrl-C is heard while XLA computes. An error becomes one line and exit code 1 or 2."""
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
            sys.stdout.flush()
        except BaseException as error:
            errors.append(error)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning)
        warnings.showwarning = _show_warning
        worker = threading.Thread(target=attempt, daemon=True)
        worker.start()
        try:
            while worker.is_alive():
                worker.join(0.1)
        except KeyboardInterrupt:  # the app was called by somebody else's program
            leave(*CODES[signal.SIGINT])
    if errors:
        _report_error(errors[0])


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    note(" ".join(str(message).split()))


def _report_error(error: BaseException) -> NoReturn:
    """Say what went wrong, in one line, and exit."""
    if isinstance(error, typer.BadParameter):  # an option that is wrong for these data
        error.message = printable(error.message)
    if isinstance(error, (typer.Exit, typer.BadParameter)):
        raise error
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC) and error.filename is None:
        _drop_stdout()
    if isinstance(error, BrokenPipeError):  # the reader of stdout has left, which is no fault of ours
        raise typer.Exit(0)
    if _DEBUGGING:
        traceback.print_exception(error)
    if isinstance(error, MemoryError):
        error = MemoryError("out of memory; use --chunk-size, fewer --restarts, a smaller --max-iter or fewer rows")
    message = " ".join(str(error).split()) or type(error).__name__
    foreseen = (WorkError, ValueError, TypeError, OSError, MemoryError, OverflowError, ImportError)
    if not isinstance(error, foreseen):
        message = (
            f"{type(error).__name__}: {message[:300]}; this is a fault of jaxem: "
            "please report it with what --debug shows"
        )
    print(f"jaxem: error: {printable(message)}", file=sys.stderr)
    raise typer.Exit(2 if isinstance(error, UsageError) else 1)


def _drop_stdout() -> None:
    """Send what is still to be written nowhere: its reader has left, or the disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_errors(on: bool) -> None:
    """Show where an error was raised from now on, if `on`."""
    if on:
        _DEBUGGING.append(True)


def start_jax(*, keep: bool = True) -> None:
    """Settle what must be settled before JAX starts: whether compiled programs are kept."""
    if not keep:
        import jax

        from jaxem import kept

        jax.config.update("jax_enable_compilation_cache", False)
        os.environ[kept.VARIABLE] = ""
