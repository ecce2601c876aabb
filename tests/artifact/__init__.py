"""Tests of `artifact`."""
