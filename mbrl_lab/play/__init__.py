"""A page on which a person plays in a learned model, beside the real environment under the same actions."""
