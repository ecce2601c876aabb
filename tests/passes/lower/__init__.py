"""Tests of `passes/lower`."""
