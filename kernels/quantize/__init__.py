"""Activations on their way into a router's GEMM: quantized, or dequantized, by kernels of their own."""
