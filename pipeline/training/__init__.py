"""Training of one network by one process or many."""
