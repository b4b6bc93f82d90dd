"""`make bench`: measure, print JSON. Everything in one run, so that ratios mean something on a noisy machine."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable

from benchmarks import channel, front, growth, reconcile, stack, sync

BENCHMARKS: dict[str, Callable[[], dict[str, object]]] = {
    "envelope": channel.envelope,
    "front": front.front,
    "growth": growth.growth,
    "reconcile": reconcile.reconcile,
    "stack": stack.stack,
    "sync": sync.sync,
}


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - BENCHMARKS.keys())
    if unknown:
        print(f"there is no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 1
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2)}
    results = {name: BENCHMARKS[name]() for name in names or BENCHMARKS}
    print(
        json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine, "results": results}, indent=2)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
