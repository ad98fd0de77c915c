"""What must hold for any data, weights, files and configs: properties, and hostile input."""

import json
import tomllib
import warnings

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxem.io
from experiments.common import ConfigError, load_config
from experiments.restarts import RestartsConfig
from jaxem import datasets
from jaxem.sklearn import FORMS, GaussianMixture
from tests import fuzz
from tests.cases import KINDS, slow_but_first
from tests.conftest import X64

pytestmark = pytest.mark.skipif(not X64, reason="the same in either mode: run once")
ROWS = 32
"""rows of the smallest bucket: one program serves every n up to it"""
quietly = settings(
    deadline=None,
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
rows = st.integers(4, ROWS)
finite = st.floats(-1e3, 1e3, width=32)
kinds = st.sampled_from([np.float64, np.float32, np.float16, np.int16, np.int64, np.uint8, np.dtype(">f8"), bool])


def tried(call, refused):
    """The value of a call, or the words of its refusal."""
    try:
        return call(), ""
    except refused as error:
        return None, str(error)


def fitted(x, form, weight=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GaussianMixture(2, covariance_type=form, reg_covar=1e-3, max_iter=5, random_state=0, **options)
        return model.fit(x, sample_weight=weight)


@pytest.mark.parametrize("form", slow_but_first([*FORMS]))
@quietly
@given(data=st.data(), dtype=kinds)
def test_shapes_and_dtypes(form, data, dtype):
    """Attributes have scikit-learn's shapes, the data's dtype if that is float32 or float64, and no NaN."""
    n, d = data.draw(rows), data.draw(st.integers(1, 2))
    elements = (
        st.booleans() if dtype is bool else None if np.dtype(dtype).kind in "iu" else st.floats(-1e3, 1e3, width=16)
    )
    x = data.draw(arrays.arrays(dtype, (n, d), elements=elements))
    model = fitted(x, form)
    kept = np.float32 if dtype == np.float32 else np.float64
    shape = KINDS[FORMS[form]].form.reduced(np.zeros((2, d, d)), [0.5, 0.5]).shape
    for name, expected in (("weights_", (2,)), ("means_", (2, d)), ("covariances_", shape), ("precisions_", shape)):
        values = getattr(model, name)
        assert (values.shape, values.dtype) == (expected, kept)
        assert np.isfinite(values).all()
    proba = model.predict_proba(x)
    assert proba.shape == (n, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert np.isfinite(model.score_samples(x)).all()


@pytest.mark.parametrize("form", slow_but_first([*FORMS]))
@quietly
@given(data=st.data())
def test_weights_of_rows(form, data):
    """Whole weights stand for repeated rows, zeros for none, and a common factor changes nothing."""
    n = data.draw(rows)
    x = data.draw(arrays.arrays(np.float64, (n, 2), elements=finite))
    weight = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    weight[:2] += 1  # there must be as many rows as components
    resp = np.eye(2)[np.arange(n) % 2] + 0.5
    again = np.repeat(np.arange(n), weight)
    one = fitted(x, form, weight.astype(float), init_params=resp)
    repeated = fitted(x[again], form, init_params=resp[again])
    scaled = fitted(x, form, weight * 0.125, init_params=resp)
    for other in (repeated, scaled):
        for name in ("weights_", "means_", "covariances_"):
            expected, found = getattr(one, name), getattr(other, name)
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * max(1.0, float(np.abs(expected).max())))


@quietly
@given(data=st.data())
def test_any_bytes_are_a_model_or_are_refused(data, tmp_path):
    """A file that was changed anywhere is refused; one that was not gives back what was saved."""
    path = tmp_path / "model"
    jaxem.io.save(GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [1.0]], [1.0, 2.0], "spherical").mixture_, path)
    content = path.read_bytes()
    begin = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(begin, len(content)))
    changed = content[:begin] + data.draw(st.binary(max_size=60)) + content[end:]
    path.write_bytes(changed)
    if changed == content:
        assert jaxem.io.load(path).components.means.tolist() == [[0.0], [1.0]]
    else:
        with pytest.raises(jaxem.io.ModelFormatError):
            jaxem.io.load(path)


@quietly
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_a_table_or_are_refused(content, tmp_path):
    for suffix in (".csv", ".npy", ".parquet"):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(content)
        table, refusal = tried(lambda path=path: datasets.read_table(path), datasets.DataError)
        assert "\n" not in refusal
        assert refusal or np.isfinite(table.values).all()


@quietly
@given(
    cells=st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1, max_size=9
    ),
    delimiter=st.sampled_from(",;\t"),
    newline=st.sampled_from(["\n", "\r\n"]),
    header=st.booleans(),
    quoted=st.booleans(),
)
def test_tables_come_back_to_the_last_digit(cells, delimiter, newline, header, quoted, tmp_path):
    mark = '"' if quoted else ""
    lines = [delimiter.join(f"{mark}{value!r}{mark}" for value in row) for row in cells]
    lines = [delimiter.join(["p", "q", "r"]), *lines] if header else lines
    (tmp_path / "x.csv").write_bytes(newline.join(lines).encode("utf-8-sig"))
    table = datasets.read_table(tmp_path / "x.csv")
    np.testing.assert_array_equal(table.values, np.array(cells))
    assert table.columns == (("p", "q", "r") if header else ("x1", "x2", "x3"))


toml_values = st.one_of(
    st.booleans(),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text("abc", max_size=3),
)


@quietly
@given(
    values=st.dictionaries(st.sampled_from([*RestartsConfig.model_fields, "seeed", "other"]), toml_values, max_size=6)
)
def test_any_toml_is_a_config_or_is_refused(values, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    assert tomllib.loads(path.read_text()) == values
    config, refusal = tried(lambda: load_config(RestartsConfig, path), ConfigError)
    assert "\n" not in refusal
    if refusal:
        assert str(path) in refusal
    else:
        assert config.model_dump() == values


def test_hostile_input(monkeypatch):
    monkeypatch.setattr(fuzz, "COMPONENTS", 2)  # fewer programs than by the thousand
    monkeypatch.setattr("tests.fuzz.FORMS", {form: FORMS[form] for form in ("full", "spherical")})
    counts = fuzz.fuzz(40, seed=1)
    for kind in ("estimator", "table"):  # hostile, but not hopeless
        count, good = counts[kind]
        assert 0 < good < count


@pytest.mark.slow
def test_hostile_input_by_the_thousand():
    fuzz.fuzz(10_000, seed=0)
