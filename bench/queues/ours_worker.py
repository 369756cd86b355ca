"""One worker process of Perdure, for `bench.queues`."""

from __future__ import annotations

import sys

import uvloop

from bench.queues.ours_tasks import application

if __name__ == "__main__":
    sys.exit(uvloop.run(application("worker").run_forever()))
