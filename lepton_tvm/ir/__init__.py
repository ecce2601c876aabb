"""Reading and writing Relax graphs and loop nests, and facts of operators and precisions."""
