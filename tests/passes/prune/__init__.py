"""Tests of `passes/prune`."""
