"""The cores that this process may run on."""

import os


def available():
    """How many: its affinity, and the quota of its control group if that is less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()[:2]
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no control group, or one without a quota
    return count


def leave(core):
    """Move this thread to another core, where one of its workers was found on the same one.

    Linux may leave them so for long, as each sleeps or spins while the other works.
    """
    allowed = os.sched_getaffinity(0)
    if len(allowed) > 1:
        os.sched_setaffinity(0, allowed - {core})
        os.sched_setaffinity(0, allowed)
