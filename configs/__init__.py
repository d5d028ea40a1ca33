"""Hydra configs of `segkit train` and `segkit eval`, read as package data."""
