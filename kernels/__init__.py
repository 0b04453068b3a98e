"""The fused MoE router: number format, reference math, GPU kernels and the public wrapper."""
