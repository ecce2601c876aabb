"""Builders and runners of candidate kernels."""
