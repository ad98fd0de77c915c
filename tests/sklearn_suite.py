"""scikit-learn's own tests of its GaussianMixture, unmodified, against ours: `python -m tests.sklearn_suite`.

One name is rebound, `sklearn.mixture.GaussianMixture`, before the tests import it. Seeds and dtypes are scikit-learn's to
choose: SKLEARN_TESTS_GLOBAL_RANDOM_SEED=0-9 and SKLEARN_RUN_FLOAT32_TESTS=1 in the environment.
"""

import sys

import pytest
import sklearn.mixture

import tests.conftest  # noqa: F401 - quick compiling
from jaxem.sklearn import GaussianMixture

TESTS = ("sklearn.mixture.tests.test_gaussian_mixture", "sklearn.mixture.tests.test_mixture")
LEFT_OUT = {
    "test_gaussian_mixture_precisions_init": "calls _initialize and _set_parameters, private helpers of the original",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": "counts calls of a private helper",
    "test_gaussian_mixture_raises_where_array_api_not_implemented": "asks for an error where ours gives an answer",
}
"""tests that are not run, and why"""


class LeaveOut:
    """A plugin that deselects the tests of `LEFT_OUT`."""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        out = [item for item in items if getattr(item, "originalname", item.name) in LEFT_OUT]
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)


def main() -> int:
    sklearn.mixture.GaussianMixture = GaussianMixture
    return pytest.main(["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--pyargs", *TESTS], plugins=[LeaveOut()])


if __name__ == "__main__":
    sys.exit(main())
