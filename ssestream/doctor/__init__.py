"""``python -m ssestream doctor``: why does a stream hang?"""
