"""Section 2.6: weights, and what flows between the layers, in one bit or in three values."""
