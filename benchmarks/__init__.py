"""The comparison with other servers, measured in turns: ``python -m benchmarks``."""
