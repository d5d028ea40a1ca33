"""Commands for maintainers: training recipes and reproduction of the results."""
