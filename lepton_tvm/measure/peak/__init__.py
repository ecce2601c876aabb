"""The machine's own peaks: multiply-adds per second and bytes read per second.

Import `lepton_tvm.measure.peak.run` to measure; that loads the compiler, which builds the loops.
"""
