"""The command line ``quarterdose``: one module for each group of commands."""
