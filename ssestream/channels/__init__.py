"""Publish once: every subscriber of a channel gets the message, in order."""

from .channel import Channel
from .channels import Channels

__all__ = ["Channel", "Channels"]
