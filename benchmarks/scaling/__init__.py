"""The simulation of many hosts and their clients, for ``docs/scaling.rst``."""
