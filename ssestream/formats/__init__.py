"""Formats of models' answers, as the clients of three vendors read them.

Each format is two functions. One turns the pieces of an answer into messages, for `pipeline` or
for a run. The other makes the message that tells the client of an error, for ``on_error=``:

>>> from ssestream.formats import chat_completions
>>> for message in chat_completions(["Hel", "lo"], model="parrot", id="1", created=0):
...     print(message["data"] if message["data"] == "[DONE]" else message["data"]["choices"][0])
{'index': 0, 'delta': {'role': 'assistant', 'content': ''}, 'finish_reason': None}
{'index': 0, 'delta': {'content': 'Hel'}, 'finish_reason': None}
{'index': 0, 'delta': {'content': 'lo'}, 'finish_reason': None}
{'index': 0, 'delta': {}, 'finish_reason': 'stop'}
[DONE]
"""

from .anthropic_messages import anthropic_messages, anthropic_messages_error
from .chat_completions import chat_completions, chat_completions_error
from .ui_messages import UI_MESSAGES_HEADERS, ui_messages, ui_messages_error

__all__ = [
    "UI_MESSAGES_HEADERS",
    "anthropic_messages",
    "anthropic_messages_error",
    "chat_completions",
    "chat_completions_error",
    "ui_messages",
    "ui_messages_error",
]
