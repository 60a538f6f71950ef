"""The cost of single parts of the project: ``python -m benchmarks.parts.NAME``."""
