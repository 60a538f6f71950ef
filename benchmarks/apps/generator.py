"""The view that a developer writes by hand: a queue for each client and a generator."""

import by_hand
from control import TEXT, listen
from flask import Flask

app = Flask(__name__)
app.add_url_rule("/news", view_func=by_hand.view)


def publish(number: int) -> None:
    by_hand.write({"n": number, "text": TEXT})


listen(publish)
