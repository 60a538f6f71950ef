"""What this project costs beside others, measured in turns: ``python -m benchmarks``."""
