"""The machine's own peaks: multiply-adds per second and bytes read per second.

Import `peak.measure_peak` to measure; that loads the compiler, which builds the loops.
"""
