"""The compiler: from a model's module to an artifact, phase by phase.

`compile` is the public call, `pipeline` the list of phases. `tuned`, which says what a tuning
record is valid for, loads no compiler, so nothing is imported here.
"""
