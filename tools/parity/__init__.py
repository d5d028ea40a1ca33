"""Comparisons with official implementations, which are oracles and never dependencies."""
