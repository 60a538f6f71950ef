"""Runs of minutes, and their short forms."""
