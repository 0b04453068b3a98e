"""Where the address spaces lie that have no addresses of the host's: no host address has these bits."""

PARAM_BASE = 1 << 62
LOCAL_BASE = 1 << 61
# What the CTA's shared memory starts with belongs to the system: its first KiB (CUDA C++ Programming Guide,
# "Compute Capability 9.0").
RESERVED_SMEM_BYTES = 1024
