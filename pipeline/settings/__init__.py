"""Settings of a run and of each training: typed, frozen, and free of torch."""
