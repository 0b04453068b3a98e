"""Hopper (sm_90a): the fused router, and the two-kernel path it is compared with."""
