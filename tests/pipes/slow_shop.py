"""The example's services, as slow as a test wishes: they wait in the middle of their work for a file to go away."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from cards import Charge
from lastro_pipes import Message

WAIT_S_MAX = 60.0


class SlowCharge(Charge):
    """It has written, and not committed, while ``$SHOP_GATE`` is there; ``$SHOP_GATE.reached`` says that it waits."""

    def handle(self, message: Message) -> dict[str, Any]:
        found = super().handle(message)
        gate = Path(os.environ["SHOP_GATE"])
        pause = threading.Event()  # never set
        deadline = time.monotonic() + WAIT_S_MAX
        while gate.exists() and time.monotonic() < deadline:
            Path(f"{gate}.reached").touch()
            pause.wait(0.02)
        return found
