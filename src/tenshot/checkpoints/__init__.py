"""Whole models as tensors that are not read yet."""
