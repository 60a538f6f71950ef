"""What the documentation and the benchmarks say is true."""
