"""What each run of the crash test has to end with, known before anything runs. Nothing here imports the engine."""

from __future__ import annotations

import zlib

KINDS = ("sequential", "parallel", "retrying", "sleeping", "eventful", "parent", "threaded", "nested")


def mix(value: int, salt: str) -> int:
    """What every step body does: cheap, and different for every step."""
    return (value * 1_000_003 + zlib.crc32(salt.encode())) % 2_147_483_647


def added(number: int) -> int:
    """What the event that is sent to a run says."""
    return number * 7 + 1


def outcome(kind: str, number: int) -> int:
    match kind:
        case "sequential" | "threaded":
            value = number
            for turn in range(4):
                value = mix(value, f"{kind}{turn}")
            return value
        case "parallel":
            return mix(sum(mix(number + part, "part") for part in range(4)), "total")
        case "retrying":
            return mix(mix(number, "flaky"), "after")
        case "sleeping":
            return mix(mix(number, "before"), "late")
        case "eventful":
            return mix(mix(number, "before") + added(number), "after")
        case "parent":
            return mix(outcome("sequential", number + 1) + outcome("threaded", number + 2), "after")
        case "nested":
            return mix(mix(mix(number, "inner"), "inner"), "outer")
        case _:
            raise ValueError(kind)


def children(run_id: str, number: int) -> dict[str, int]:
    """The runs that a `parent` run starts, by their ids, with what they end with."""
    return {
        f"{run_id}/sequential": outcome("sequential", number + 1),
        f"{run_id}/threaded": outcome("threaded", number + 2),
    }
