"""behind(): the value behind one of Werkzeug's proxies, such as ``current_user``.

A proxy has its value only during its request. A value that is kept is used later, so the
proxy must be replaced first.
"""

from typing import Any

from werkzeug.local import LocalProxy


def behind(value: Any) -> Any:
    """The value that the proxy *value* stands for, or *value* itself if it is no proxy.

    Raises ``RuntimeError`` if the proxy has no value now.
    """
    # type() tells a proxy from its value; isinstance() does not.
    while issubclass(type(value), LocalProxy):
        value = value._get_current_object()
    return value
