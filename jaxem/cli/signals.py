"""How a command ends early: Ctrl-C and termination are heard from the first import to the last line.

Nothing is imported here that takes time. XLA cannot be stopped while it computes, so the process ends at once; only a file
that is being written is finished first.
"""

import contextlib
import os
import signal
import sys
from typing import Any, NoReturn

CODES = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}
"""signals that end a command: the word it says, and its exit code"""


def listen() -> None:
    """Hear these signals from now on; one that the caller told the process to ignore stays ignored."""
    for number in CODES:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: Any) -> NoReturn:
    leave(*CODES[signal.Signals(number)])


def leave(word: str, code: int) -> NoReturn:
    """End the process at once; only a file that is being written is finished first."""
    cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
    with contextlib.suppress(OSError):  # nobody may listen
        os.write(2, f"{cursor}\njaxem: {word}\n".encode())  # not print: it may be what was interrupted
    writing = getattr(sys.modules.get("jaxem.atomic"), "WRITING", None)  # the module may be half imported
    if writing is not None:
        writing.acquire(timeout=10)
    os._exit(code)
