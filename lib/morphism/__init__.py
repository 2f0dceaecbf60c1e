"""Network morphism: change a trained network into a larger one that computes the same (section 3.2.3)."""
