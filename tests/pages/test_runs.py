"""A browser's own EventSource and a run: all of it once, and no visit more after its end."""

from pathlib import Path
from typing import Any

import pytest

from tests.kit.servers import Server, ask_json, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.server]

#: Follows a run, and notes each of its events and each break.
FOLLOW = """
window.events = []
window.breaks = 0
window.source = new EventSource(arguments[0])
source.onmessage = (event) => events.push(event.data)
source.addEventListener('done', () => events.push('done'))
source.onerror = () => { breaks += 1 }
"""

COUNT = 30


@pytest.mark.long
@pytest.mark.parametrize("has_ended", [True, False], ids=["ended", "under way"])
def test_a_browser_gets_all_of_a_run_and_stays_away_after_its_end(
    has_ended: bool, driver: Any, serve: Any, tmp_path: Path
) -> None:
    server: Server = serve(
        "SseWorker",
        "tests.servers.apps.runs:app",
        env={"BROKER": f"sqlite:///{tmp_path}/events.db"},
        args=("-c", "tests/servers/apps/reload.conf.py", "--workers", "2"),
    )
    pace = 0 if has_ended else 0.05
    ask_json(server, f"/start/answer?count={COUNT}&pace={pace}")
    if has_ended:
        wait_until(
            lambda: ask_json(server, "/status/answer")["status"] == "done", "the end of the run"
        )
    # Any page of the server's own origin.
    driver.get(f"{server.url}/status/answer")
    driver.execute_script(FOLLOW, "/runs/answer")
    # An EventSource closes when it is answered with another status than 200, and not at an end.
    wait_until(
        lambda: driver.execute_script("return source.readyState") == 2, "the source to close"
    )
    assert driver.execute_script("return events") == [*map(str, range(COUNT)), "done"]
    # The end of the response, and the 204.
    assert driver.execute_script("return breaks") == 2
