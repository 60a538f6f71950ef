"""Werkzeug's proxies, such as ``current_user``: what is kept is the value behind one.

A proxy has that value in its request only, and whatever is kept is looked at later.
"""

from typing import Any

from werkzeug.local import LocalProxy


def behind(value: Any) -> Any:
    """What *value* stands for now, or *value* itself. Raises ``RuntimeError`` for nothing."""
    # Its own type: to isinstance() a proxy is what it stands for.
    while issubclass(type(value), LocalProxy):
        value = value._get_current_object()
    return value
