"""One way through a trained network: what is judged and what is shipped come out of the same code."""
