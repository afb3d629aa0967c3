"""Compile a model for the machine at hand, chosen by measuring."""
