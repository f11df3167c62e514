"""The report of a run: CSV files, figures and one page that holds them all."""
