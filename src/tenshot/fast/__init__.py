"""Models whose nets are compiled, and whose weights stay exchangeable."""
