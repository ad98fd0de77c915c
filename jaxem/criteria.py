"""Criteria: what a fit is worth on rows it has not seen, from its log-likelihood and its number of parameters. Less is better.

BIC = p log n - 2 l     (Schwarz 1978)
AIC = 2 p - 2 l         (Akaike 1974)
ICL = BIC + 2 doubt     (Biernacki, Celeux and Govaert 2000), doubt = -sum_i log max_j p(j | x_i)
"""

import math
from typing import NamedTuple


class Criteria(NamedTuple):
    """The information criteria of a fit."""

    bic: float
    aic: float
    icl: float


def criteria(log_likelihood: float, n_parameters: int, n: float, doubt: float = math.nan) -> Criteria:
    """BIC, AIC and ICL of a fit to n rows (or weights that sum to n); without `doubt`, which ICL alone needs, that is NaN."""
    bic = n_parameters * math.log(n) - 2.0 * log_likelihood
    return Criteria(bic, 2.0 * n_parameters - 2.0 * log_likelihood, bic + 2.0 * doubt)
