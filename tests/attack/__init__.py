"""Seeded attacks on every kind of input, against every verb: see `python -m tests.attack --help`."""
