"""Experiments on jaxem's public API: python -m experiments.NAME configs/NAME.toml"""
