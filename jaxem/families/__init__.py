"""Families of components: one small file for each kind, all under the contract of `base.Family`."""
