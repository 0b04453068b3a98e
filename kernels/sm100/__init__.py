"""Blackwell (sm_100a, sm_103a): the fused NVFP4 router, and the two-kernel path it is compared with."""
