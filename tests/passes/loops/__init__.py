"""Tests of `passes/loops`."""
