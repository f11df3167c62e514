"""Partners of a full dose: the arrays of low dose that stand beside it in a pair."""

from collections.abc import Iterable
from dataclasses import dataclass

FULL_DOSE, LOW_DOSE = "full_dose", "low_dose"
"""Arrays of a pair that has a single partner."""


@dataclass(frozen=True)
class Partner:
    """A low dose of a pair, in the array of this name.

    ``dose``: fraction of the full dose, None where it is not known, as it was measured. ``realisation``: number of its
    noise, from 1 on, among those of the same dose.
    """

    dose: float | None
    realisation: int = 1
    array: str = LOW_DOSE

    @property
    def draw(self) -> str:
        """What tells its noise apart from that of the pair's further partners; nothing where it has none."""
        return "" if self.array == LOW_DOSE else f"{self.dose}/{self.realisation}"


def partners_of(doses: Iterable[float], realisations: int) -> tuple[Partner, ...]:
    """Return the partners that a simulation makes; a single one is called ``low_dose``."""
    partners = tuple(
        Partner(dose, number, f"{LOW_DOSE}_{dose}_{number}") for dose in doses for number in range(1, realisations + 1)
    )
    return partners if len(partners) > 1 else (Partner(partners[0].dose),)
