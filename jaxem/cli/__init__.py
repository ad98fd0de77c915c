"""The command line: jaxem fit | predict | score | sample | verify.

What was asked for goes to stdout, progress and complaints to stderr. Exit codes: 0 done (also when a fit did not converge,
which it says), 1 the data or the fit failed, 2 wrong usage, 130 interrupted, 143 terminated. An error is one line; --debug
shows where it was raised. `commands` has the commands and their options, `terminal` the process (threads, signals, start of
JAX, progress), `words` what is printed. JAX is imported only once there is work to do, so that --help answers at once.
"""

try:
    import rich  # noqa: F401
    import typer  # noqa: F401
except ModuleNotFoundError as error:  # the extra is missing
    raise SystemExit(
        f"jaxem: {error.name} is not installed; the command line needs: pip install 'jaxem[cli]'"
    ) from error

from jaxem.cli.commands import app, main

__all__ = ["app", "main"]
