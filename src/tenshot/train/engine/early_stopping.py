"""When has it learned? The loss on fixed inputs stops moving (DVAR, Voronov et al., arXiv 2302.04841).

The loss of training itself says nothing: other noise and other times at every step hide what changes. With pictures,
noise and times held fixed it falls, and then lies still.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import pvariance

EVERY = 10  # optimizer steps between looks
SAMPLES = 8  # fixed inputs
WINDOW = 31  # looks that must lie still: 310 steps, as in the paper
STILL = 0.15  # their variance, as a share of the variance since the beginning


def converged(looks: Sequence[float]) -> bool:
    """Do the last WINDOW losses lie still, measured by all of them?"""
    if len(looks) < 2 * WINDOW:
        return False
    return pvariance(looks[-WINDOW:]) < STILL * pvariance(looks)
