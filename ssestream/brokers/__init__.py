"""Where channels are kept: one file for each kind of log, and the contract of all."""
