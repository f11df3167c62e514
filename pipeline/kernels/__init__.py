"""Our own GPU kernels, each with its gradient: torch knows them as operators; ``programs`` has their Triton code."""
