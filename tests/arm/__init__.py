"""ARM targets, run by emulation (qemu): correctness, never speed."""
