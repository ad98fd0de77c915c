"""fork after JAX began to compute: one line instead of a call that never returns; before that, a fork works."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

CHILD = """
import multiprocessing, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, jax, jaxem
from jaxem.sklearn import GaussianMixture

x = np.random.default_rng(0).normal(size=(40, 2))

def attempt(call):
    try:
        calls[call]()
    except RuntimeError as error:
        return str(error)
    return "worked"

if {used}:
    key = jax.random.key(0)
    mixture = jaxem.search(key, "spherical", x, 1, budget=9).best.mixture
    model = GaussianMixture(1).fit(x)
    calls = {{
        "search": lambda: jaxem.search(key, "spherical", x, 1),
        "starts": lambda: jaxem.starts(key, "spherical", x, 1, 1),
        "predict": lambda: mixture.predict(x),
        "sample": lambda: mixture.sample(key, 3),
        "e_step": lambda: jaxem.e_step(mixture, x),
        "verify": lambda: jaxem.verify(mixture, x),
        "prior": lambda: jaxem.chen_tan(x),
        "fit": lambda: GaussianMixture(1).fit(x),
        "score": lambda: model.score(x),
    }}
else:
    calls = {{"fit": lambda: GaussianMixture(1).fit(x)}}
with multiprocessing.get_context({how!r}).Pool(1) as pool:
    for call in calls:
        print(call, "|", pool.apply_async(attempt, (call,)).get(timeout=120))
"""


def run(used, how="fork"):
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(used=used, how=how)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(" | ", 1) for line in done.stdout.splitlines())


def test_a_fork_after_a_fit_is_told_in_one_line():
    told = run(used=True)
    assert len(told) == 9
    for call, message in told.items():
        assert 'multiprocessing.get_context("spawn")' in message, call
        assert "forked after JAX began to compute" in message


def test_a_fork_before_the_first_use_works():
    assert run(used=False) == {"fit": "worked"}


def test_the_parent_goes_on_after_a_fork():
    code = """
import os, warnings
warnings.simplefilter("ignore")
import numpy as np, jax, jaxem
x = np.arange(20.0)[:, None]
one = jaxem.search(jax.random.key(0), "full", x, 1, budget=9).best.objective
if os.fork() == 0:
    os._exit(0)
os.wait()
assert float(jaxem.search(jax.random.key(0), "full", x, 1, budget=9).best.objective) == float(one)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
