"""The lecture's O(n K d), measured: time of a pass against n, K, d and restarts R as slopes on log-log axes, peak memory
against n in chunks, and speed against devices.

A slope is fitted to the larger half of the values, past the overheads of a pass. Memory is the peak of a fresh process
above the data themselves; devices are host devices of a fresh process each.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.ticker import NullLocator

from experiments.benchmark import PEAK, Kind, PassConfig, child, data_of, one_pass, start_of
from experiments.common import Config, Positive, Sizes, hardware, panels, run, save_figure, write_csv
from jaxem.primitives import cores

AXES = {"n": "rows n", "k": "components K", "d": "features d", "lanes": "restarts R"}


class ScalingConfig(Config):
    """configs/scaling.toml"""

    seed: int
    repeats: Positive
    family: Kind
    base: PassConfig
    n: Sizes
    k: Sizes
    d: Sizes
    lanes: Sizes
    memory_n: Sizes
    devices: Sizes


def slope_of(values: list[int], seconds: list[float]) -> float:
    """Slope on log-log axes over the larger half of the values, two at least."""
    first = min(len(values) // 2, len(values) - 2)
    return float(np.polyfit(np.log(values[first:]), np.log(seconds[first:]), 1)[0])


def passes(config: ScalingConfig) -> Iterator[tuple[str, int, float]]:
    """What varies, its value, and seconds of a pass of all restarts."""
    for axis in AXES:
        for value in getattr(config, axis):
            work = config.base.model_copy(update={axis: value, "family": config.family})
            x = data_of(work, config.seed, work.dtype)
            seconds = one_pass(work, x, start_of(x, work), config.repeats)[0] * work.lanes
            yield axis, value, seconds


MEMORY = """
import jax, numpy as np, jaxem
x = np.random.default_rng(0).standard_normal(({n}, {d}), np.float32)
params = jaxem.GaussianParams(jax.numpy.asarray(x[:{k}]), jax.numpy.ones({k}, x.dtype))
mixture = jaxem.Mixture(jax.numpy.full({k}, -np.log({k}), x.dtype), params, jaxem.Spherical())
jax.block_until_ready(jaxem.fit(mixture, x, stop=jaxem.GainBelow(-np.inf), max_iter=2, chunk_size=4096))
jax.block_until_ready(mixture.predict(x, chunk_size=4096))
data = 2 * x.nbytes  # as given, and as the pass reads them
"""

DEVICES = """
import json, jax
jax.config.update("jax_num_cpu_devices", {devices})
from experiments.benchmark import PassConfig, data_of, one_pass, start_of
work = PassConfig.model_validate({work!r})
x = data_of(work, {seed}, work.dtype)
print(json.dumps(one_pass(work, x, start_of(x, work), {repeats})[0]))
"""


def scaling(config: ScalingConfig, out: Path) -> Iterator[str]:
    """Slopes of a pass in n, K, d and R; memory in n; speed in devices."""
    jax.config.update("jax_num_cpu_devices", cores())
    yield f"measured on {hardware()}, {len(jax.devices())} devices; {config.family} {config.base.dtype}"
    rows: list[tuple[str, int, float]] = []
    for row in passes(config):
        rows.append(row)
    work = config.base.model_dump() | {"family": config.family}
    for n in config.memory_n:
        above = child(MEMORY.format(n=n, d=config.base.d, k=config.base.k) + PEAK)
        rows.append(("memory_mb", n, above))
    for devices in config.devices:
        program = DEVICES.format(devices=devices, work=work, seed=config.seed, repeats=config.repeats)
        rows.append(("devices", devices, child(program)))
    write_csv(out / "scaling.csv", ["varied", "value", "seconds_or_mb"], rows)

    measured: dict[str, tuple[list[int], list[float]]] = {}
    for name in dict.fromkeys(row[0] for row in rows):
        measured[name] = ([row[1] for row in rows if row[0] == name], [row[2] for row in rows if row[0] == name])
    draw(measured, out / "scaling.png")
    slopes = {axis: slope_of(*measured[axis]) for axis in AXES}
    listed = ", ".join(f"{AXES[axis]} {slope:.2f}" for axis, slope in slopes.items())
    yield f"slopes of a pass on log-log axes, in this run: {listed}; O(n K d) says 1 for each"
    ns, above = measured["memory_mb"]
    yield f"peak memory above the data from n = {ns[0]:,} to {ns[-1]:,}: {above[0]:.0f} to {above[-1]:.0f} MB"
    counts, times = measured["devices"]
    faster = ", ".join(f"{count}: {times[0] / seconds:.2f}" for count, seconds in zip(counts, times, strict=True))
    yield f"speed by number of host devices on {cores()} cores, relative to {counts[0]}: {faster}"


def draw(measured: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    """One panel for each thing varied."""
    titles: dict[str, Any] = {**AXES, "memory_mb": "rows n", "devices": "host devices"}
    figure, axes = panels(len(measured))
    for panel, (name, (values, results)) in zip(axes, measured.items(), strict=True):
        if name == "memory_mb":
            panel.plot(values, results, "o-")
            panel.set_ylim(0)
            panel.set_ylabel("peak MB above the data")
        else:
            panel.loglog(values, results, "o-", label=f"slope {slope_of(values, results):.2f}")
            panel.set_ylabel("seconds of a pass")
            shown = values[:: -(-len(values) // 3)]
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xticks(shown, [f"{value:,}" for value in shown])
            panel.legend()
        panel.set_xlabel(titles[name])
    save_figure(figure, path)


if __name__ == "__main__":
    run(ScalingConfig, scaling)
