"""Benchmarks of fastdet's operators and components, and the ledger of its kernels."""
