"""Many devices: the answer does not depend on how many there are, nor on how rows are spread over them."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.cases import slow_but_first
from tests.conftest import X64

PROGRAM = """
import json, sys
import jax, numpy as np
devices = int(sys.argv[1])
jax.config.update("jax_num_cpu_devices", devices)
jax.config.update("jax_enable_x64", True)
import optax
import jaxem
from jaxem import GainBelow

rng = np.random.default_rng(0)
found = {}
for name, d in json.loads(sys.argv[2]).items():
    family = getattr(jaxem, name)()
    x = rng.normal(size=(203, d)) + 5.0 * rng.integers(0, 3, (203, 1))
    w = rng.integers(0, 3, 203).astype(float)
    x[5] = 1e200
    w[5] = 0.0
    starts = jaxem.starts(jax.random.key(0), family, x, 3, 7, sample_weight=w)
    one = starts[0]
    spread, weight = jaxem.shard(x, w)
    assert len(spread.sharding.device_set) == devices
    options = {"stop": GainBelow(-np.inf), "max_iter": 15}
    stats = jaxem.e_step(one, spread, weight)
    fit = jaxem.fit(one, spread, weight, **options)
    by_lanes = jaxem.fit_restarts(starts, x, w, **options)
    by_rows = jaxem.fit_restarts(starts, spread, weight, **options)
    resp = one.responsibilities(spread)
    again = jaxem.starts(jax.random.key(0), family, spread, 3, 7, sample_weight=weight)
    ahead = optax.with_extra_args_support(optax.scale(1.4))
    quick = jaxem.fit(one, spread, weight, stop=GainBelow(1e-13), max_iter=3000, accelerator=ahead)
    values = (quick.objective, stats, fit.mixture, fit.objective, by_lanes.objective, by_lanes.mixture, by_rows.objective,
              by_rows.mixture, jaxem.elbo(one, spread, resp, weight), np.asarray(resp)[:203], one.predict(spread)[:203],
              again.components.means, jaxem.proxy(one, one, spread, weight))
    found[type(family).__name__] = [np.asarray(leaf, float).tolist() for leaf in jax.tree.leaves(values)]
    assert by_lanes.objective.shape == by_rows.objective.shape == (7,)
print(json.dumps(found))
"""


@functools.cache
def run(devices, family, d):
    """What one process finds on so many devices."""
    command = [sys.executable, "-c", PROGRAM, str(devices), json.dumps({family: d})]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[family]


@pytest.mark.skipif(not X64, reason="1e-10 needs float64")
@pytest.mark.parametrize("devices", slow_but_first([2, 4, 8]))
@pytest.mark.parametrize(("family", "d"), slow_but_first([("Tied", 10), ("Full", 3), ("Spherical", 2)]))
def test_the_answer_does_not_depend_on_the_number_of_devices(devices, family, d):
    """One pass, plain EM at equal steps, restarts by lanes and by rows, to 1e-10; 203 rows divide by none of them."""
    for found, expected in zip(run(devices, family, d), run(1, family, d), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.max(np.abs(expected)))


SEARCH = """
import json, sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
jax.config.update("jax_enable_x64", True)
import jaxem
rng = np.random.default_rng(0)
x, w = jaxem.shard(rng.normal(size=(60_000, 12)) + 6.0 * rng.integers(0, 3, (60_000, 1)))
assert len(x.sharding.device_set) == int(sys.argv[1])
found = jaxem.search(jax.random.key(0), jaxem.Spherical(), x, 3, w, budget=24)
starts = jaxem.starts(jax.random.key(1), jaxem.Spherical(), x, 3, 4, sample_weight=w)
print(json.dumps([float(found.best.log_likelihood), found.passes, np.asarray(starts.components.means).tolist()]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not X64, reason="1e-10 needs float64")
def test_a_search_and_its_starts_where_rows_are_spread():
    """As on one device; a draw of starts whose devices wait for each other would not end in time."""
    results = []
    for devices in (1, 2):
        command = [sys.executable, "-c", SEARCH, str(devices)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-9)
