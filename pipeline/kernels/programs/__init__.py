"""Kernels in Triton and the functions that launch them; imported only where they run."""
