"""Scans on disk become verified low-dose/full-dose Zarr pairs."""
