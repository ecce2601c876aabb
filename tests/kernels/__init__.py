"""Tests of kernels: what the lowering writes and the templates read."""
