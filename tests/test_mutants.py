"""The laws catch every seeded bug: one is tried by default, all with -m slow. `python -m tests.mutants` prints the table."""

import pytest

from tests.conftest import X64
from tests.mutants import MUTANTS, killers

pytestmark = pytest.mark.skipif(not X64, reason="verify computes in float64 in either mode")


def test_at_least_twenty_bugs_are_seeded():
    assert len(MUTANTS) >= 20


def test_one_mutant_is_killed():
    assert "stationary" in killers(MUTANTS[0])


@pytest.mark.slow
def test_the_unchanged_package_breaks_no_law():
    assert killers() == []


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS[1:], ids=lambda mutant: mutant.what)
def test_every_mutant_is_killed(mutant):
    assert killers(mutant)
