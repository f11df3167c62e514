"""Memory of GPUs by their names, and the part of it that a training step may fill."""

from data_prep.errors import UserError

GIB = 2**30

TOTAL_GIB = {
    "T4-16GB": 14.6,
    "V100-16GB": 15.7,
    "A10-24GB": 22.0,
    "L4-24GB": 22.0,
    "V100-32GB": 31.7,
    "A100-40GB": 39.4,
    "A40-48GB": 44.3,
    "L40S-48GB": 44.3,
    "RTX-A6000-48GB": 47.4,
    "A100-80GB": 79.1,
    "H100-80GB": 79.1,
    "H200-141GB": 139.7,
}
"""What CUDA reports as a device's total memory, which is less than its name says."""

CONTEXT_GIB = 1.0
"""Memory that PyTorch does not allocate: CUDA's context, handles and kernels of cuDNN and cuBLAS, NCCL's buffers."""

WORKSPACE_SHARE = 0.1
"""Share left free for workspaces of convolutions and for gaps between blocks, which no trace counts."""


def usable_bytes(name: str) -> int:
    """Return the bytes of a GPU that tensors may fill.

    Raises:
        UserError: the GPU is unknown.
    """
    if name not in TOTAL_GIB:
        raise UserError(f"--gpu {name} is unknown; known: {', '.join(TOTAL_GIB)}")
    return int((TOTAL_GIB[name] * (1 - WORKSPACE_SHARE) - CONTEXT_GIB) * GIB)
