"""Writers: canonical slices become files, one module for each format."""
