"""Publish once: every subscriber of a channel gets the message, in order."""

from .channels import Channel, Channels

__all__ = ["Channel", "Channels"]
