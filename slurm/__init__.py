"""Submit jobs to Slurm and follow them; knows no stage."""
