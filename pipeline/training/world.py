"""Rank and size of the processes that train one network together, and the errors between them."""

from collections.abc import Callable
from dataclasses import dataclass


class DistributionError(RuntimeError):
    """A job whose processes do not fit together, or cannot reach each other; the message is one sentence."""


class PeerLost(DistributionError):
    """The loss of another rank, which died, stopped or hangs; the reason, if any, is in that rank's own log."""


def _do_nothing(error: PeerLost) -> None:
    """Default handler: do nothing, the error is already on stderr."""


@dataclass(frozen=True)
class World:
    """This process among the ranks of a job, ``size`` in all; ``local_rank``: its number on its node.

    ``rendezvous``: address at which the ranks meet: ``file:///...`` on one machine, ``tcp://host:port`` of rank 0 on
    several. ``on_peer_lost``: called in another thread before this process ends because another rank fell silent.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    rendezvous: str = ""
    on_peer_lost: Callable[[PeerLost], None] = _do_nothing

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes files."""
        return self.rank == 0
