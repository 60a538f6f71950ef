"""The pages of the examples, in a real browser."""
