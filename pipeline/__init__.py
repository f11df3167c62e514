"""Zarr pairs become samples, trained networks, judged results and figures."""
