"""Schedules: (PrimFunc, Target) -> Schedule or None, one folder per target family."""
