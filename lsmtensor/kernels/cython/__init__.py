"""Compiled kernels: C with one body per instruction set, wrapped by Cython."""
