"""`tenshot serve`: the programs that people already draw with, drawing with this model."""
