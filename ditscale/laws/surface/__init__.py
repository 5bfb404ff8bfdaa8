"""Approach 3: the surface L(N, D), its fit and its refits."""
