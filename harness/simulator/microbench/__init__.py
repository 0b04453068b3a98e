"""Micro-benchmarks that calibrate the simulator's clock: one number of the target's table each."""
