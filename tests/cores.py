"""How many cores a process may use: those that its affinity and its container's quota leave it.

What xdist means by "auto" are the cores of the machine: a container that has two of sixty-four would start sixty-four
workers, each with a database of its own.
"""

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time in a period, or "max", and the period


def cores(quota_file: Path = QUOTA) -> int:
    """At least one; of a core that is ours in part, all of it."""
    # Not every system knows affinity, or keeps quotas in this file.
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = quota_file.read_text().strip().partition(" ") if quota_file.exists() else ("max", "", "")
    return ours if quota == "max" else max(1, min(ours, -(-int(quota) // int(period))))


if __name__ == "__main__":
    print(cores())  # noqa: T201  # for the Makefile
