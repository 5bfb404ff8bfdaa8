"""Approach 2: parabolas, their minima, and the laws through them."""
