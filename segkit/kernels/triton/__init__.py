"""Fused kernels; imported only where Triton is, and importing only torch and triton."""
