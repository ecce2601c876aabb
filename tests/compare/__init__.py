"""Tests of `compare`."""
