"""Tests of `passes/quantize`."""
