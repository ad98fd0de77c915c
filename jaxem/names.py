"""Names by which families may be given. No import: the command line reads them before JAX starts."""

FORMS = ["EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV"]
"""mclust's forms of a covariance: volume, shape and orientation are equal (E), varying (V) or those of the axes (I)"""
FAMILY_NAMES: dict[str, tuple[str, ...]] = {
    "spherical": ("Spherical",),
    "diagonal": ("Diagonal",),
    "diag": ("Diagonal",),
    "tied": ("Tied",),
    "full": ("Full",),
    "tied-spherical": ("TiedSpherical",),
    "tied-diagonal": ("TiedDiagonal",),
    "student-t": ("StudentT",),
    "deconvolved": ("Deconvolved",),
    "bernoulli": ("Bernoulli",),
    "poisson": ("Poisson",),
    **{form.lower(): ("Ellipsoidal", form) for form in FORMS},
}
"""names by which a family may be given: the class that each stands for, and the arguments of that"""
WITH_SETTINGS = {
    "categorical": "jaxem.Categorical(n_categories)",
    "regression": "jaxem.Regression(n_covariates)",
    "uniform": "jaxem.Uniform(low, high)",
    "ellipsoidal": 'jaxem.Ellipsoidal("VEV") or another form',
    "product": "jaxem.Product((family, columns), ...)",
    "union": "jaxem.Union((family, count), ...)",
    "numerical": "jaxem.Numerical(log_prob, init)",
}
"""families that a name alone does not tell, and what to write"""
