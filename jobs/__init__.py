"""What runs in an allocation, one module a stage, and the command line."""
