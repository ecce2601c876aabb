"""Tests of `db/exchange`."""
