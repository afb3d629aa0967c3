"""When has it learned? The loss on fixed inputs lies still, and the pictures drawn meanwhile show the given ones.

The loss of training itself says nothing: other noise and other times at every step hide what changes. With pictures,
noise and times held fixed it falls, and then lies still (DVAR, Voronov et al., arXiv 2302.04841). So it does where
nothing is learned; hence the second look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import pvariance

EVERY = 10  # optimizer steps between looks at the loss
SAMPLES = 8  # fixed inputs
WINDOW = 31  # looks that must lie still: 310 steps, as in the paper
STILL = 0.15  # their variance, as a share of the variance since the beginning
EARLIEST = 2 * WINDOW * EVERY  # optimizer steps
WAY = 0.75  # from what was drawn before training to the given pictures: from there on they are recognised
APART = 0.05  # in likeness, those two at least: else the judge has nothing to go by
OPTION = "--stop_when_learned"
STILL_SAID = "the loss on fixed inputs lies still"
DO = "raise --learning_rate, or name the subject in --validation_prompt as it is named in training"


@dataclass(frozen=True)
class Sight:
    """What the judge says of drawn pictures: their likeness to the given ones, cosine.

    before: of what was drawn before training. among: of the given ones to each other.
    """

    now: float
    before: float
    among: float

    @property
    def wanted(self) -> float:
        return self.before + WAY * (self.among - self.before)

    @property
    def judgeable(self) -> bool:
        return self.among - self.before >= APART

    @property
    def recognised(self) -> bool:
        return self.judgeable and self.now >= self.wanted

    @property
    def words(self) -> str:
        if not self.judgeable:
            apart = f"{self.before:.3f} before training, {self.among:.3f} among your pictures"
            return f"the judge cannot tell your pictures from others (likeness {apart})"
        does = "shows" if self.recognised else "does not show"
        return f"what is drawn {does} your pictures (likeness {self.now:.3f}, {self.wanted:.3f} wanted)"

    def ahead(self) -> str:
        """When it can stop, said before the first step."""
        if not self.judgeable:
            return f"{OPTION} will not stop this run: {self.words}"
        alike = f"{self.before:.3f} before training, {self.among:.3f} among your pictures"
        shows = f"what is drawn shows your pictures: likeness {self.wanted:.3f} ({alike})"
        return f"{OPTION} can stop from step {EARLIEST} on, once {STILL_SAID} and {shows}"


@dataclass
class EarlyStopping:
    """active: was it asked for? losses: on fixed inputs, one every EVERY steps. sight: what was seen last.

    recognised: the step at which what was drawn showed what is to be learned, if the last look did.
    """

    active: bool
    losses: list[float] = field(default_factory=list)
    sight: Sight | None = None
    recognised: int | None = None

    def settles(self, step: int) -> bool:
        """Has the loss just come to lie still?"""
        fresh = self.active and step % EVERY == 0
        return fresh and converged(self.losses) and not converged(self.losses[:-1])

    def learned(self, step: int, seen: bool) -> bool:
        """seen: are pictures drawn and looked at? Else the loss alone decides."""
        return self.active and converged(self.losses) and (self.recognised == step or not seen)

    def why(self, step: int, last: int, seen: bool) -> str:
        """Why it stopped, or did not by this step. seen: as of `learned`."""
        if not converged(self.losses):
            return f"{OPTION} did not stop it: the loss on fixed inputs {_course(self.losses)}"
        stopped = f"stopped after step {step} of {last}: {STILL_SAID}"
        if not seen:
            return stopped
        words = self.sight.words if self.sight else "nothing that was drawn was judged"
        if self.recognised == step:
            return f"{stopped}, and {words}"
        do = f": {DO}" if self.sight and self.sight.judgeable else ""
        return f"after step {step} {STILL_SAID}, but {words}{do}"


def converged(looks: Sequence[float]) -> bool:
    """Do the last WINDOW losses lie still, measured by all of them?"""
    if len(looks) < 2 * WINDOW:
        return False
    return pvariance(looks[-WINDOW:]) < STILL * pvariance(looks)


def _course(looks: Sequence[float]) -> str:
    if len(looks) < 2 * WINDOW:
        return f"is judged from step {EARLIEST} on"
    if not pvariance(looks):
        return "never moved"
    share = pvariance(looks[-WINDOW:]) / pvariance(looks)
    return (
        f"moves: over {WINDOW * EVERY} steps {share:.0%} of its variance since the beginning, below {STILL:.0%} wanted"
    )
