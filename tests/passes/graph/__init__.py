"""Tests of `passes/graph`."""
