"""How jobs reach an executor and what became of them; knows no stage."""
