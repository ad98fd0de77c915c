"""Data, options and weights of every kind: what fits, and what is refused in the words of scikit-learn."""

import pickle
import re
import warnings

import numpy as np
import pandas
import polars
import pyarrow
import pytest
import scipy.sparse

from jaxem.sklearn import GaussianMixture
from tests.sklearn_pair import ATTRIBUTES, FAITHFUL, Original, fitted, only_once, pair

pytestmark = only_once
WHOLE = np.random.default_rng(4).integers(0, 9, size=(80, 2))


def kinds(tmp_path):
    reference = WHOLE.astype(np.float64)
    yield "int64", WHOLE
    yield "uint8", WHOLE.astype(np.uint8)
    yield "float16", WHOLE.astype(np.float16)
    yield "big-endian", WHOLE.astype(">f8")
    yield "big-endian int", WHOLE.astype(">i4")
    yield "fortran", np.asfortranarray(reference)
    yield "backwards", reference[::-1][::-1]
    yield "strided", np.repeat(reference, 2, axis=1)[:, ::2]
    frozen = reference.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    np.save(tmp_path / "x.npy", reference)
    yield "memmap", np.load(tmp_path / "x.npy", mmap_mode="r")
    yield "lists", WHOLE.tolist()
    yield "object", reference.astype(object)
    yield "pandas", pandas.DataFrame(WHOLE, columns=["a", "b"])
    yield "pandas nullable", pandas.DataFrame(WHOLE, columns=["a", "b"]).astype({"a": "Int64", "b": "Float64"})
    yield "polars", polars.DataFrame({"a": WHOLE[:, 0], "b": WHOLE[:, 1]})
    yield "pyarrow", pyarrow.table({"a": WHOLE[:, 0], "b": WHOLE[:, 1]})


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.filterwarnings("ignore:X has feature names")
def test_input_of_every_kind(tmp_path):
    expected = GaussianMixture(2, random_state=0).fit(WHOLE.astype(np.float64))
    scores = expected.score_samples(WHOLE.astype(np.float64))
    for name, x in kinds(tmp_path):
        before = np.array(x, np.float64, copy=True)
        model = GaussianMixture(2, random_state=0).fit(x)
        assert model.means_.dtype == np.float64, name
        np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(model.score_samples(x), scores, rtol=1e-9, err_msg=name)
        np.testing.assert_array_equal(np.array(x, np.float64), before, err_msg=name)
    for table in (pandas.DataFrame(WHOLE, columns=["a", "b"]), polars.DataFrame({"a": WHOLE[:, 0], "b": WHOLE[:, 1]})):
        model = GaussianMixture(2, random_state=0).fit(table)
        assert model.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(pandas.DataFrame(WHOLE, columns=["a", "c"]))


def test_booleans_and_single_precision():
    flags = np.random.default_rng(0).random((60, 3)) < [0.2, 0.5, 0.8]
    model = GaussianMixture(2, random_state=0).fit(flags)
    np.testing.assert_allclose(model.means_, GaussianMixture(2, random_state=0).fit(flags.astype(float)).means_)
    single = GaussianMixture(2, random_state=0).fit(np.asarray(FAITHFUL, ">f4"))
    assert {getattr(single, name).dtype for name in ATTRIBUTES} == {np.dtype(np.float32)}
    assert single.predict_proba(np.float32(FAITHFUL)).dtype == np.float32
    assert single.score_samples(FAITHFUL).dtype == np.float64
    assert np.isfinite(single.score_samples([[1e30, 0.0]])).all()  # float64 that float32 cannot hold the square of


BAD_DATA = {
    "NaN": np.where(FAITHFUL > 90, np.nan, FAITHFUL),
    "inf": np.where(FAITHFUL > 90, np.inf, FAITHFUL),
    "complex": FAITHFUL.astype(complex),
    "strings": [["a", "b"], ["c", "d"]],
    "1-D": FAITHFUL[:, 0],
    "3-D": FAITHFUL[None],
    "no rows": FAITHFUL[:0],
    "no columns": FAITHFUL[:, :0],
    "sparse": scipy.sparse.csr_matrix(FAITHFUL),
    "n < K": FAITHFUL[:2],
    "ragged": [[1.0, 2.0], [3.0]],
    "None": [[1.0, None], [2.0, 3.0]],
    "pandas NA": pandas.DataFrame({"a": pandas.array([1, None, 3], "Int64"), "b": [1.0, 2.0, 3.0]}),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_gives_scikit_learns_error(kind):
    errors = []
    for model in pair(3):
        with pytest.raises((ValueError, TypeError)) as raised:
            model.fit(BAD_DATA[kind])
        errors.append((type(raised.value), str(raised.value)))
    (theirs, their_words), (ours, our_words) = sorted(errors, key=lambda error: "missing=True" in error[1])
    if "contains NaN" in their_words:  # the same words, and then what to do about it
        assert our_words.partition(";")[0] == their_words.partition(".")[0]
        assert "missing=True" in our_words
        our_words = their_words
    assert (theirs, their_words) == (ours, our_words)


BAD_OPTIONS = (
    {"n_components": 0}, {"n_components": 1.5}, {"n_components": "2"}, {"tol": -1.0}, {"tol": np.nan}, {"reg_covar": -1e-6},
    {"max_iter": -1}, {"n_init": 0}, {"covariance_type": "round"}, {"init_params": "nowhere"}, {"random_state": "seed"},
    {"warm_start": 3.5}, {"verbose": "yes"}, {"verbose_interval": 0}, {"weights_init": [0.5, 0.6]}, {"weights_init": [2.0, -1.0]},
    {"weights_init": [1.0]}, {"weights_init": [np.nan, 1.0]}, {"means_init": [[1.0, 2.0]]}, {"means_init": [[np.inf, 0], [0, 0]]},
    {"precisions_init": [np.eye(2)]}, {"precisions_init": [-np.eye(2)] * 2}, {"precisions_init": [[[1, 2], [0, 1]]] * 2},
    {"covariance_type": "diag", "precisions_init": [[1, 0], [1, 1]]}, {"covariance_type": "tied", "precisions_init": -np.eye(2)},
    {"covariance_type": "spherical", "precisions_init": [1.0]}, {"chunk_size": 0},
)  # fmt: skip


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_bad_options_name_the_parameter(options):
    """The error has the type and the words of the original's, where the original refuses the value."""
    options = {"n_components": 2, **options}
    with pytest.raises(ValueError) as ours:  # noqa: PT011 - what it says is compared below
        GaussianMixture(**options).fit(FAITHFUL)
    name = next(name for name in options if name != "n_components" or len(options) == 1)
    named = {"weights_init": "weights", "means_init": "means", "precisions_init": "precision"}.get([*options][-1], name)
    assert named in str(ours.value) or [*options][-1] in str(ours.value)
    if "chunk_size" in options or "init_params" in options:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = refusal(Original(**options))
    assert type(ours.value) is type(theirs)
    if "NaN" not in str(theirs) and "infinity" not in str(theirs):  # ours says in what
        # a set of choices is listed in any order
        assert sorted(re.findall(r"[\w.-]+", str(ours.value))) == sorted(re.findall(r"[\w.-]+", str(theirs)))


def refusal(model):
    """The error that fitting raises, or None."""
    try:
        model.fit(FAITHFUL)
    except ValueError as error:
        return error
    return None


def test_warm_starts_from_other_data():
    """Data of another dtype are fitted in that dtype; a model that cannot be a start is refused by name."""
    model = GaussianMixture(2, warm_start=True, random_state=0).fit(np.float32(FAITHFUL))
    assert model.fit(FAITHFUL).means_.dtype == np.float64
    assert model.fit(np.float32(FAITHFUL)).means_.dtype == np.float32
    model.fit(np.round(FAITHFUL).astype(int))
    for change in ({"covariance_type": "tied"}, {"covariance_type": "diag"}, {"n_components": 3}):
        with pytest.raises(ValueError, match="warm_start goes on from"):
            clone_with_parameters(model, **change).fit(FAITHFUL)


def clone_with_parameters(model, **change):
    copy = pickle.loads(pickle.dumps(model))
    return copy.set_params(**change)


def test_attributes_may_be_set_by_hand():
    """Attributes are arrays that can be written to; as in scikit-learn predictions follow precisions_cholesky_."""
    ours, theirs = GaussianMixture(2, random_state=0).fit(FAITHFUL), Original(2, random_state=0).fit(FAITHFUL)
    for model in (ours, theirs):
        model.means_ += 0.5
        model.precisions_cholesky_ = model.precisions_cholesky_ * 1.5
    np.testing.assert_allclose(ours.score_samples(FAITHFUL), theirs.score_samples(FAITHFUL), rtol=1e-9)
    for model in (ours, theirs):
        model.covariances_[0] *= 7
    np.testing.assert_allclose(ours.score_samples(FAITHFUL), theirs.score_samples(FAITHFUL), rtol=1e-9)


def test_callables_get_a_copy():
    x, resp = FAITHFUL.copy(), np.eye(2)[(FAITHFUL[:, 0] > 3).astype(int)]
    GaussianMixture(2, init_params=lambda x, k, random_state: (x.fill(0), resp)[1]).fit(x)
    np.testing.assert_array_equal(x, FAITHFUL)


def test_equal_weights_are_no_weights():
    for init in ("kmeans", "k-means++", "random", "random_from_data"):
        plain, weighted = (
            fitted(GaussianMixture(3, init_params=init, random_state=1), FAITHFUL, sample_weight=w)
            for w in (None, np.full(272, 0.25))
        )
        np.testing.assert_allclose(weighted.means_, plain.means_, rtol=1e-9)


def test_bad_weights_of_rows():
    model = GaussianMixture(2, random_state=0)
    for bad, message in (
        (np.zeros(272), "zero"), (-np.ones(272), "[Nn]egative"), (np.full(272, np.nan), "NaN"), (np.ones(3), "shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model.fit(FAITHFUL, sample_weight=bad)
    with pytest.raises(ValueError, match="fewer than n_components"):
        model.fit(FAITHFUL, sample_weight=np.eye(1, 272)[0])
    plain = model.fit(np.float32(FAITHFUL)).means_
    for scale in (1e-300, 1e300):  # weights count by their ratios
        np.testing.assert_allclose(
            model.fit(np.float32(FAITHFUL), sample_weight=np.full(272, scale)).means_, plain, rtol=1e-6
        )
    with pytest.raises(ValueError, match=r"means_init.*too large for float32"):
        GaussianMixture(2, means_init=np.full((2, 2), 1e300)).fit(np.float32(FAITHFUL))


def test_other_data_than_it_was_fitted_on():
    model = GaussianMixture(2, random_state=0, warm_start=True).fit(FAITHFUL)
    for ask in (model.predict, model.score, model.predict_proba, model.score_samples, model.bic):
        with pytest.raises(ValueError, match="X has 3 features, but GaussianMixture is expecting 2"):
            ask(np.ones((4, 3)))
    with pytest.raises(ValueError, match="warm_start"):
        model.set_params(n_components=3).fit(FAITHFUL)
