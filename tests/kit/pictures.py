"""The pictures of docs/, which the tests of the pages take if somebody asks for them.

``SSESTREAM_PICTURE=1`` writes ``docs/<name>.png``. ``SSESTREAM_PICTURES``, a folder, gets the same
page also in dark colours, and as wide as a phone.
"""

import io
import os
from pathlib import Path
from typing import Any

from tests.kit.servers import ROOT

#: Whether somebody asks for the pictures.
WANTED = os.environ.get("SSESTREAM_PICTURE") == "1"

PHONE = 420


def take_picture(driver: Any, name: str, width: int = 1180, height: int = 845) -> None:
    """Write ``docs/<name>.png``, if wanted: what *driver* shows now."""
    if not WANTED:
        return
    driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    emulate(driver, "light", width, height)
    save(driver, ROOT / "docs" / f"{name}.png")
    elsewhere = os.environ.get("SSESTREAM_PICTURES")
    if elsewhere is not None:
        for scheme, wide in (("dark", width), ("light", PHONE), ("dark", PHONE)):
            emulate(driver, scheme, wide, 845)
            save(driver, Path(elsewhere) / f"{name}-{scheme}-{wide}.png")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": False})


def save(driver: Any, path: Path) -> None:
    """Save what *driver* shows, in few colours and so in a small file."""
    # Here, as only those who take pictures need it.
    from PIL import Image

    image = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    image.quantize(256, kmeans=2).save(path, optimize=True)


def emulate(driver: Any, scheme: str, width: int, height: int = 845) -> None:
    """Show the page in *scheme*, ``light`` or ``dark``, in a window of this size in pixels."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
