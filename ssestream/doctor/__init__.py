"""``python -m ssestream doctor``: why does a stream hang?

`probe` is a view for the app that is examined.
"""

from .probing import probe

__all__ = ["probe"]
