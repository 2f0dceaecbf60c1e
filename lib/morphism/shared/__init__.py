"""What several techniques of network morphism use."""
