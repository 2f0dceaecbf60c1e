"""Network morphism: turn a trained network into a larger one that computes the same function (section 3.2.3)."""
