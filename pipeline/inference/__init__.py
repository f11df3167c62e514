"""The one way of a scan through a trained network: evaluation judges the voxels that users get."""
