"""Signed permissions to follow channels, for clients that can send no headers."""

from .tickets import Ticket, Tickets

__all__ = ["Ticket", "Tickets"]
