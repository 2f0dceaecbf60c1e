"""Numbers of fewer bits (section 2.5): one file for each technique."""
