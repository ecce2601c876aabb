"""Tests of `farm`."""
