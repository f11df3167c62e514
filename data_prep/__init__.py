"""From scans on disk to verified pairs of low and full dose in Zarr."""
