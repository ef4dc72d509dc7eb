"""What every long-running process of ours does at its start."""

import gc

# Generations of the garbage collector: as many more objects than are freed start a collection of the young, and so many
# of these one of the older. The defaults (700, 10, 10) walk the whole heap of a Django process many times a second
# when thousands of messages are in hand; nothing of them is a cycle.
THRESHOLDS = (50_000, 20, 50)


def settle_down() -> None:
    """Call once, when everything is loaded: what is there now stays, and the garbage collector leaves it alone."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
