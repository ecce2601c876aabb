"""The tests; their folders are those of the package, what they share is in `support`."""
