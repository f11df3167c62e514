"""A process's place among those that train one network together."""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Rank and size of a job.

    ``rendezvous``: a URL on which the ranks meet, as ``torch.distributed`` takes it, such as ``file:///...``.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    rendezvous: str = ""

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.rank == 0
