"""A real Slurm on one machine, for development and tests: several emulated nodes with counted GPUs, and accounting."""

from slurm.devcluster.cluster import PACKAGES, Cluster, missing_packages
from slurm.devcluster.config import Shape
from slurm.devcluster.daemons import DevClusterError

__all__ = ["PACKAGES", "Cluster", "DevClusterError", "Shape", "missing_packages"]
