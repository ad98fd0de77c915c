"""The command line: jaxem fit | test | predict | score | sample | verify | compare | convert.

What was asked for goes to stdout; progress, notes on the data and complaints go to stderr. Exit codes: 0 done (also when a
fit did not converge, which it says), 1 the data or the fit failed, 2 wrong usage, 130 interrupted, 143 terminated. An error
is one line; --debug shows where it was raised. `commands` has the commands and their options, `models` those
that compare and convert models, `reading` how tables are read, `signals` and `terminal` the process (signals, threads, start
of JAX, progress), `words` what is printed, `records` what --json prints, `manual` the help and completions. JAX is imported
only once there is work to do, so that --help answers at once.
"""

import importlib.util
from typing import Any

_MISSING = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
if _MISSING:  # the extra is missing
    raise SystemExit(f"jaxem: {_MISSING[0]} is not installed; the command line needs: pip install 'jaxem[cli]'")

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the `jaxem` command."""
    from jaxem.cli.signals import listen

    listen()  # before anything is imported that takes time
    from jaxem.cli.models import app
    from jaxem.cli.terminal import run_command_line

    run_command_line(app)


def __getattr__(name: str) -> Any:
    if name == "app":
        from jaxem.cli.models import app

        return app
    raise AttributeError(f"module 'jaxem.cli' has no attribute {name!r}")
