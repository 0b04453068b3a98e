"""NVIDIA's public CuTe DSL examples, executed by the simulator: a witness from outside.

The examples are right on hardware, so where the simulator says otherwise, the simulator is wrong (or the
example leans on something that the simulator does not promise). They are read from a checkout of
NVIDIA/cutlass that the caller names; what stands here is how each is called, and what its result must be.
"""
