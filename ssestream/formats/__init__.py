"""Formats of models' answers, as the clients of three vendors read them.

Each format is three functions. One turns the pieces of an answer into messages, for `pipeline`
or for a run. One makes the message that tells the client of an error, for ``on_error=``. One makes
the last message of a run, for ``Runs(last=)``:

>>> from ssestream.formats import chat_completions
>>> for message in chat_completions(["Hel", "lo"], model="parrot", id="1", created=0):
...     print(message["data"] if message["data"] == "[DONE]" else message["data"]["choices"][0])
{'index': 0, 'delta': {'role': 'assistant', 'content': ''}, 'finish_reason': None}
{'index': 0, 'delta': {'content': 'Hel'}, 'finish_reason': None}
{'index': 0, 'delta': {'content': 'lo'}, 'finish_reason': None}
{'index': 0, 'delta': {}, 'finish_reason': 'stop'}
[DONE]
"""

from .anthropic_messages import (
    anthropic_messages,
    anthropic_messages_error,
    anthropic_messages_last,
)
from .chat_completions import chat_completions, chat_completions_error, chat_completions_last
from .ui_messages import UI_MESSAGES_HEADERS, ui_messages, ui_messages_error, ui_messages_last

__all__ = [
    "UI_MESSAGES_HEADERS",
    "anthropic_messages",
    "anthropic_messages_error",
    "anthropic_messages_last",
    "chat_completions",
    "chat_completions_error",
    "chat_completions_last",
    "ui_messages",
    "ui_messages_error",
    "ui_messages_last",
]
