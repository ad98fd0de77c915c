"""Dask: rows in partitions give the numbers that they give in memory, wherever they are, also when a worker is lost."""

import contextlib
import os
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import partitions, source
from tests.conftest import ROUNDING

dask = pytest.importorskip("dask")
pytest.importorskip("distributed")
cloudpickle = pytest.importorskip("cloudpickle")
pd = pytest.importorskip("pandas")
import dask.array as da  # noqa: E402 - after the tests are skipped where Dask is missing
import dask.dataframe as dd  # noqa: E402

KEY = jax.random.key(0)
N = 80_000
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, 3)) + 3.0 * RNG.integers(0, 3, N)[:, None]
W = RNG.uniform(0.5, 1.5, N)
W[::5] = 0
NEVER = jaxem.GainBelow(-np.inf)
SCHEDULERS = ("synchronous", "threads")


def in_array(x=X, w=W, rows=17_000, columns=2):
    """A source of an array in chunks that cut the columns, its weights in other chunks."""
    weight = None if w is None else da.from_array(w, chunks=30_000)
    return jaxem.from_dask(da.from_array(x, chunks=(rows, columns)), weight=weight)


def in_frame(x=X, w=W, npartitions=5):
    """A source of a dataframe whose columns lie in another order, among others."""
    frame = pd.DataFrame(x[:, ::-1], columns=["c", "b", "a"]).assign(w=w, name="text")
    made = dd.from_pandas(frame, npartitions=npartitions, sort=False)
    return jaxem.from_dask(made, columns=["a", "b", "c"], weight="w")


MADE: dict = {"array": in_array, "dataframe": in_frame}


@pytest.fixture(scope="module")
def start():
    return jaxem.starts(KEY, "full", X[:2000], 3, 1)[0]


def assert_same(found, expected, rtol=ROUNDING):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(b).max(initial=0)))


# -- the same numbers as in memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", MADE)
def test_a_pass_is_that_in_memory(kind, scheduler, start):
    with dask.config.set(scheduler=scheduler):
        made = MADE[kind]()
        assert isinstance(made.ready(start.family, 3, like=start, lanes=1, chunk_size=None), source.Stream)
        assert_same(jaxem.e_step(start, made), jaxem.e_step(start, X, W))


@pytest.mark.any_dtype
@pytest.mark.parametrize("kind", MADE)
def test_climbs_are_those_in_memory(kind, start):
    made = MADE[kind]()
    rtol = max(ROUNDING, 1e-10)
    expected = jaxem.fit(start, X, W)
    found = jaxem.fit(start, made)
    assert_same(found.mixture, expected.mixture, 10 * rtol)
    assert_same(found.log_likelihood, expected.log_likelihood)
    starts = jaxem.starts(KEY, "spherical", made, 2, 3)
    assert_same(
        jaxem.fit_restarts(starts, made, stop=NEVER, max_iter=6).log_likelihood,
        jaxem.fit_restarts(starts, X, W, stop=NEVER, max_iter=6).log_likelihood,
    )


@pytest.mark.any_dtype
def test_a_search_is_that_in_memory():
    expected = jaxem.search(KEY, "spherical", X, 3, W, budget=40)
    found = jaxem.search(KEY, "spherical", in_array(), 3, budget=40)
    assert_same(found.best.log_likelihood, expected.best.log_likelihood)
    means = [jaxem.sorted_components(one.best.mixture, by="weight").components.means for one in (found, expected)]
    assert_same(means[0], means[1], 1e4 * ROUNDING)  # as near as a climb's end is to the optimum


@pytest.mark.parametrize("kind", MADE)
def test_few_rows_are_read_into_memory(kind, start):
    made = MADE[kind](X[:4000], W[:4000])
    rows = made.ready(start.family, 3, like=start, lanes=1, chunk_size=None)
    assert not isinstance(rows, source.Stream)
    assert_same(jaxem.e_step(start, made), jaxem.e_step(start, X[:4000], W[:4000]))
    x, w = made.in_memory()
    np.testing.assert_array_equal(x, X[:4000])
    np.testing.assert_array_equal(w, W[:4000])


@pytest.mark.any_dtype
def test_weights_columns_and_iteration():
    """Weights in memory or in other chunks, columns in any order; a source yields partition by partition."""
    data = da.from_array(X, chunks=(30_000, 3))
    for weight in (W, da.from_array(W, chunks=7_000), W.tolist()):
        made = jaxem.from_dask(data, columns=[2, 0], weight=weight)
        blocks = list(made)
        assert [len(x) for x, _ in blocks] == [30_000, 30_000, 20_000]
        np.testing.assert_array_equal(np.concatenate([x for x, _ in blocks]), X[:, [2, 0]])
        np.testing.assert_array_equal(np.concatenate([w for _, w in blocks]), W)
    assert made.columns is None
    assert made.place(30_017) == "partition 1, row 17"
    assert in_frame().columns == ("a", "b", "c")


@pytest.mark.any_dtype
def test_the_sample_and_the_fingerprint_do_not_depend_on_the_partitions():
    whole = in_array(rows=N, columns=3)
    assert len(whole.lengths) == 1
    for made in (in_frame(), in_array(rows=9_001)):
        assert made.fingerprint() == whole.fingerprint()
        np.testing.assert_array_equal(made.sample(1000), whole.sample(1000))
    assert in_array(X + 1e-6).fingerprint() != whole.fingerprint()
    order = source.sample_order(N, 3, W)
    np.testing.assert_array_equal(whole.sample(1000), X[order[:1000]])


@pytest.mark.any_dtype
@pytest.mark.parametrize("zeros", [0.1, 0.9])
def test_partitions_offer_what_the_sample_takes(zeros, monkeypatch):
    """Not many more rows travel than are drawn; where most have weight 0, another pass finds the same sample."""
    monkeypatch.setattr(source, "SAMPLED", 4_000)
    monkeypatch.setattr(source, "LEAST_SAMPLED", 4_000)
    w = (np.random.default_rng(0).uniform(size=N) >= zeros).astype(float)
    passes = []
    fold = partitions.Partitions.fold

    def counted(self, work):
        passes.append(work)
        return fold(self, work)

    monkeypatch.setattr(partitions.Partitions, "fold", counted)
    made = in_array(X, w)
    found = made.overview().draw
    assert len(passes) == (1 if zeros < 0.5 else 2)
    assert zeros > 0.5 or found.n < 2.2 * 4_000
    np.testing.assert_array_equal(made.sample(4_000), X[source.sample_order(N, 3, w)[:4_000]])


@pytest.mark.any_dtype
def test_unknown_lengths_and_empty_partitions(start):
    """After a filter Dask does not know how many rows there are; some partitions have none."""
    keep = (X[:, 0] > 0) & ~((np.arange(N) >= 17_000) & (np.arange(N) < 34_000))
    data, w = da.from_array(X, chunks=(17_000, 2)), da.from_array(W, chunks=17_000)
    made = jaxem.from_dask(data[da.from_array(keep, chunks=17_000)], weight=w[da.from_array(keep, chunks=17_000)])
    expected = jaxem.e_step(start, X[keep], W[keep])
    assert made.lengths[1] == 0
    assert sum(made.lengths) == keep.sum()
    assert_same(jaxem.e_step(start, made), expected)
    of_memory = jaxem.from_dask(data[da.from_array(keep, chunks=17_000)], weight=W[keep])
    assert_same(jaxem.e_step(start, of_memory), expected)
    frame = dd.from_pandas(pd.DataFrame(X, columns=["a", "b", "c"]).assign(w=W, k=keep), chunksize=17_000, sort=False)
    assert_same(jaxem.e_step(start, jaxem.from_dask(frame[frame.k], columns=["a", "b", "c"], weight="w")), expected)
    after = int(np.flatnonzero(keep)[made.lengths[0]])  # the first row after the empty partition
    assert after >= 34_000
    assert made.place(made.lengths[0]) == "partition 2, row 0"
    nothing = jaxem.from_dask(data[da.from_array(keep & False, chunks=17_000)])
    with pytest.raises(ValueError, match="hold no rows; give at least one"):
        jaxem.e_step(start, nothing)


@pytest.mark.any_dtype
def test_a_partition_is_cut_evenly_and_little_is_padded():
    for rows, most in ((1_000, 1_100), (70_000, 41_000), (65_536, 65_536)):
        made = jaxem.from_dask(da.zeros((N, 3), chunks=(rows, 3)))
        assert -(-rows // 2) <= made.block_rows(3) <= most


@pytest.mark.any_dtype
def test_kinds_of_columns():
    """Whole numbers, booleans and the dtypes of pandas that know of missing values."""
    frame = pd.DataFrame({"a": np.arange(9), "b": np.arange(9) > 4, "c": np.arange(9) / 2})
    frame = frame.assign(d=frame.a.astype("Int64"), e=frame.c.astype("Float32"), f=frame.c.astype("float32"))
    made = jaxem.from_dask(dd.from_pandas(frame, npartitions=2))
    x, w = made.in_memory()
    assert w is None
    np.testing.assert_array_equal(x, frame.to_numpy(float))
    assert made.columns == tuple("abcdef")
    one = jaxem.from_dask(dd.from_pandas(frame[["f"]], npartitions=2))
    assert one.in_memory()[0].dtype == np.float32


@pytest.mark.any_dtype
def test_a_climb_goes_on_from_a_checkpoint_in_other_partitions(tmp_path, monkeypatch, start):
    expected = jaxem.fit(start, X, W, stop=NEVER, max_iter=8)
    passes = []
    fold = partitions.Partitions.fold

    def counted(self, work):
        passes.append(work)
        if len(passes) == 6:
            raise KeyboardInterrupt
        return fold(self, work)

    monkeypatch.setattr(partitions.Partitions, "fold", counted)
    options = {"stop": NEVER, "max_iter": 8, "checkpoint": tmp_path / "climb"}
    with pytest.raises(KeyboardInterrupt):
        jaxem.fit(start, in_array(), **options)
    found = jaxem.fit(start, in_frame(), **options)
    assert_same((found.mixture, found.log_likelihood), (expected.mixture, expected.log_likelihood), 10 * ROUNDING)
    assert len(passes) < 6 + 8


# -- how it is worked out ------------------------------------------------------------------------------------------------


@pytest.mark.any_dtype
def test_the_work_is_once_in_the_graph_and_is_added_up_in_a_tree():
    """The parameters are a value that all tasks name, and no task adds up more than a few values."""
    graphs = []

    def get(graph, keys, **options):
        graphs.append(dict(graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph))
        return dask.get(graph, keys, **options)

    made = jaxem.from_dask(da.from_array(X, chunks=(1_000, 3)))
    made.overview()
    heavy = np.arange(100_000.0)
    with dask.config.set(scheduler=get):
        total = made.fold(lambda begin, x, w: source.Sum((heavy[:1], np.array([begin, len(x)]))))
    graph = graphs[-1]
    sizes = [len(cloudpickle.dumps(node)) for node in graph.values()]
    assert sum(size > heavy.nbytes for size in sizes) == 1
    np.testing.assert_array_equal(total.tree[1], [np.arange(0, N, 1_000).sum(), N])
    adding = [key for key in graph if str(key).startswith("sum_of-")]
    assert len(adding) == 10 + 2 + 1
    assert max(len(dask.core.get_dependencies(graph, key)) for key in adding) <= partitions.FAN


@pytest.mark.any_dtype
def test_a_family_is_one_object_wherever_it_is_unpickled():
    """Programs are made for a family: were it another object each turn, each turn would compile."""
    family = jaxem.Numerical(lambda params, row: -jnp.sum((row - params) ** 2), lambda x, w: x[0])
    first, second = (partitions._unpickled(partitions._pickled(({"i": i}, family))) for i in range(2))
    assert first[0] != second[0]
    assert first[1] is second[1]
    assert first[1] is not family


@pytest.mark.any_dtype
def test_scoped_settings_hold_on_the_workers():
    made = in_array()

    def told(begin, x, w):
        return source.Sum(np.asarray(jnp.ones(2) * x[0, 0]).dtype.itemsize)

    for enabled in (False, True):
        with jax.enable_x64(enabled), dask.config.set(scheduler="threads"):
            assert made.fold(told).tree == 5 * (8 if enabled else 4)


# -- what cannot be used -------------------------------------------------------------------------------------------------

FRAME = dd.from_pandas(pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "t": ["x", "y"]}), npartitions=1)
ARRAY = da.ones((6, 2), chunks=(2, 2))
REFUSED = {
    "text": (lambda: jaxem.from_dask(FRAME), "column 't' has dtype .*; choose columns of numbers .columns=.'a', 'b'."),
    "absent": (
        lambda: jaxem.from_dask(FRAME, columns=["a", "z"]),
        "columns names 'z', which .* lacks; it has 'a', 'b', 't'",
    ),
    "absent weight": (lambda: jaxem.from_dask(FRAME, weight="z"), "weight names 'z', which the dataframe lacks"),
    "weight array": (lambda: jaxem.from_dask(FRAME, ["a"], np.ones(2)), "weight is an array; name the column"),
    "twice": (lambda: jaxem.from_dask(FRAME, ["a", "a"]), "none twice"),
    "weight a feature": (lambda: jaxem.from_dask(FRAME, ["a", "b"], "b"), "not that of the weights"),
    "one dimension": (lambda: jaxem.from_dask(ARRAY[:, 0]), "data has 1 dimensions; give .n, d., .* data.reshape"),
    "dtype": (lambda: jaxem.from_dask(ARRAY.astype(str)), "data has dtype .*; give real numbers"),
    "column": (lambda: jaxem.from_dask(ARRAY, [5]), "columns holds 5, and the columns are 0 to 1"),
    "weights": (lambda: jaxem.from_dask(ARRAY, weight=np.ones(5)), "weight has shape .5,.; .* each of the 6 rows"),
    "weights lazy": (lambda: jaxem.from_dask(ARRAY, weight=da.ones(5)), "weight has shape .5,.; .* each of the 6 rows"),
    "weight's name": (lambda: jaxem.from_dask(ARRAY, weight="w"), "weight = 'w'; give one weight for each row"),
}


@pytest.mark.any_dtype
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_told_at_once(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as told:
        call()
    assert "\n" not in str(told.value)


@pytest.mark.any_dtype
@pytest.mark.parametrize("given", [np.ones((3, 2)), "x.csv", FRAME.a, dask.delayed(1), None])
def test_other_kinds_of_data_are_told(given):
    with pytest.raises(TypeError, match=r"^data is a \w+; give a .*[dD]ataframe"):
        jaxem.from_dask(given)


def with_one(value, row=37_017, dtype=float):
    """X with one value, or one weight, that cannot be meant."""
    x = X.astype(dtype)
    x[row, 1] = value
    return x


BAD = {
    "NaN": (lambda: in_array(with_one(np.nan)), "partition 2, row 3017: column 1 holds nan; drop or fill the row"),
    "infinity": (
        lambda: in_frame(with_one(np.inf)),
        "partition 2, row 5017: column 'b' holds inf; drop or fill the row",
    ),
    "weight": (
        lambda: in_array(w=np.where(np.arange(N) == 40_000, -1.0, W)),
        "partition 2, row 6000: the weight is -1.0",
    ),
    "zero": (
        lambda: in_array(w=np.zeros(N)),
        "the Partitions holds no row of positive weight; at least one must count",
    ),
}


@pytest.mark.any_dtype
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("case", BAD)
def test_rows_that_cannot_be_meant_are_told_by_partition_and_row(case, scheduler, start):
    made, message = BAD[case]
    with dask.config.set(scheduler=scheduler), pytest.raises(ValueError, match=f"^{message}") as told:
        jaxem.fit(start, made())
    assert "\n" not in str(told.value)


@pytest.mark.any_dtype
def test_text_among_numbers_is_told_where_it_is(start):
    frame = dd.from_pandas(pd.DataFrame(X, columns=["a", "b", "c"]), npartitions=4, sort=False)

    def spoilt(part, partition_info=None):
        if partition_info is not None and partition_info["number"] == 3:
            part = part.astype(object)
            part.iloc[17, 1] = "n/a"
        return part

    made = jaxem.from_dask(frame.map_partitions(spoilt, meta=frame._meta))
    with pytest.raises(ValueError, match=r"^partition 3, row 17: column 'b' holds 'n/a'; every value must be a number"):
        jaxem.fit(start, made)


@pytest.mark.any_dtype
def test_rows_that_a_family_cannot_have_are_told(start):
    x = (X > 3).astype(float)
    x[50_000, 1] = 0.5
    made = jaxem.from_dask(da.from_array(x, chunks=(30_000, 3)))
    with pytest.raises(ValueError, match=r"partition 1, row 0: x.20000, 1. = 0\.5 cannot occur under Bernoulli"):
        jaxem.starts(KEY, jaxem.Bernoulli(), made, 2, 1)


@pytest.mark.any_dtype
def test_data_that_change_and_masks_are_told(start):
    lengths = iter([100_000, 100_000, 100_000, 99_000])
    parts = dask.delayed(lambda: np.zeros((next(lengths), 2)), pure=False)
    data = da.from_delayed(parts(), shape=(np.nan, 2), dtype=float)
    made = jaxem.from_dask(data)
    assert made.lengths == (100_000,)
    made.fold(lambda begin, x, w: source.Sum(len(x)))
    made.fold(lambda begin, x, w: source.Sum(len(x)))
    with pytest.raises(ValueError, match="partition 0 has 99000 rows where 100000 were expected; give data that stay"):
        made.fold(lambda begin, x, w: source.Sum(len(x)))
    masked = da.ma.masked_array(da.ones((6, 2), chunks=(3, 2)), mask=np.eye(6, 2, dtype=bool))
    with pytest.raises(ValueError, match="partition 0 has a mask over some of its rows"):
        jaxem.e_step(start, jaxem.from_dask(masked))


@pytest.mark.any_dtype
def test_a_missing_dask_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^dask is not installed; from_dask needs: pip install 'jaxem\[dask\]'"
    ):
        jaxem.from_dask(ARRAY)


# -- a cluster of processes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """Two worker processes, whose JAX would compute in float32 by itself."""
    from dask.distributed import Client, LocalCluster

    environment = {"JAX_ENABLE_X64": "0"}
    options = {"dashboard_address": ":0", "processes": True, "silence_logs": 50}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, env=environment, **options) as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made


@pytest.fixture
def on_cluster(client):
    with client.as_current(), dask.config.set(scheduler="dask.distributed"):
        yield client


@pytest.mark.any_dtype
def test_a_lost_worker_changes_no_number(on_cluster, tmp_path, start):
    """In the fourth turn a worker kills itself while it reads a partition."""

    def read(part):
        with (tmp_path / "reads").open("a") as file:
            file.write("x")
        if (tmp_path / "reads").stat().st_size >= 20:
            with contextlib.suppress(FileExistsError):
                (tmp_path / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return part

    expected = jaxem.fit(start, X, W, stop=NEVER, max_iter=8)
    data = da.from_array(X, chunks=(17_000, 3)).map_blocks(read, meta=np.zeros((0, 0)))
    workers = set(on_cluster.scheduler_info()["workers"])
    found = jaxem.fit(start, jaxem.from_dask(data, weight=W), stop=NEVER, max_iter=8)
    assert (tmp_path / "killed").exists()
    assert set(on_cluster.scheduler_info()["workers"]) != workers
    assert_same((found.mixture, found.log_likelihood), (expected.mixture, expected.log_likelihood), 10 * ROUNDING)
    assert found.log_likelihood.dtype == expected.log_likelihood.dtype


@pytest.mark.any_dtype
def test_a_family_of_a_notebook_goes_along_and_is_compiled_once(on_cluster):
    """Its class and functions exist in no module that a worker can import."""

    def log_prob(params, row):
        return -0.5 * jnp.sum((row - params) ** 2) - 0.5 * row.shape[0] * jnp.log(2 * jnp.pi)

    family = jaxem.Numerical(log_prob, lambda x, sample_weight: sample_weight @ x / sample_weight.sum())
    persisted = da.from_array(X, chunks=(40_000, 3)).persist()
    starts = jaxem.starts(KEY, family, jaxem.from_dask(persisted), 2, 1)
    found = jaxem.fit(starts[0], jaxem.from_dask(persisted), stop=NEVER, max_iter=4)
    expected = jaxem.fit(starts[0], X, stop=NEVER, max_iter=4)
    assert_same(found.log_likelihood, expected.log_likelihood, 10 * ROUNDING)

    def programs():
        from jaxem import parts

        return len(parts._part.made)

    made = on_cluster.run(programs)
    jaxem.fit(found.mixture, jaxem.from_dask(persisted), stop=NEVER, max_iter=4)
    assert on_cluster.run(programs) == made


@pytest.mark.any_dtype
def test_an_error_on_a_worker_is_one_line_here(on_cluster, start):
    with pytest.raises(ValueError, match=r"^partition 2, row 3017: column 1 holds nan") as told:
        jaxem.fit(start, in_array(with_one(np.nan)))
    assert "\n" not in str(told.value)


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also in a suite that runs in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.any_dtype
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT of this kind")
def test_an_interrupt_cancels_what_has_not_begun(on_cluster, start, interruptible):
    def slow(part):
        time.sleep(1)
        return part

    data = da.from_array(X, chunks=(5_000, 3)).map_blocks(slow, meta=np.zeros((0, 0)))
    made = jaxem.from_dask(data)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        jaxem.fit(start, made)
    timer.join()
    until = time.monotonic() + 5
    while any(on_cluster.processing().values()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(on_cluster.processing().values())


@pytest.mark.any_dtype
def test_sums_are_the_same_bits_each_time(on_cluster, start):
    made = in_array()
    first, second = (jaxem.e_step(start, made) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
