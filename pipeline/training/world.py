"""A process's place among those that train one network together, and what can go wrong between them."""

from collections.abc import Callable
from dataclasses import dataclass


class DistributionError(RuntimeError):
    """The processes of one job are not those that it needs, or cannot meet; the message is one sentence."""


class PeerLost(DistributionError):
    """Another rank died, stopped or hangs; why, is for itself to say, if it still can."""


def _say_no_more(error: PeerLost) -> None:
    """Leave it at what standard error was told."""


@dataclass(frozen=True)
class World:
    """Rank and size of a job.

    ``rendezvous``: where the ranks meet: ``file:///...`` on one machine, ``tcp://host:port`` of rank 0 on several.
    ``on_peer_lost``: called, in another thread, before this process is ended because another rank fell silent.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    rendezvous: str = ""
    on_peer_lost: Callable[[PeerLost], None] = _say_no_more

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.rank == 0
