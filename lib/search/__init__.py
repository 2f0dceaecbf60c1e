"""Search for an architecture: what a space is, what a search leaves behind, and the searches for comparison."""
