"""Beside npm's packages: the bytes, the semantics, a port of an Express program."""
