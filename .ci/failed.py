"""``python .ci/failed.py MOST``: name the tests that failed in the last run of pytest.

It exits with 1 if no test failed, as the run then broke in another way, or if more than MOST did.
"""

import json
import sys
from pathlib import Path

FAILED = Path(__file__).parents[1] / ".pytest_cache" / "v" / "cache" / "lastfailed"

most = int(sys.argv[1])
names = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
print(f"{len(names)} failed:", *names, sep="\n    ", flush=True)
sys.exit(not 0 < len(names) <= most)
