"""Templates for processors with vector registers; a family gives them names and dot products."""
