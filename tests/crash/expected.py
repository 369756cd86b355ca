"""What each run of the crash test has to end with, known before anything runs. Nothing here imports the engine."""

from __future__ import annotations

import zlib

KINDS = ("sequential", "parallel", "retrying", "sleeping", "eventful", "parent", "threaded", "nested", "foster")
CLAIMED_ONCE = ("sequential", "parallel", "retrying", "threaded", "nested")
"""Those that wait for nothing that lasts: whoever claims a run of theirs ends it."""


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
        case "parent" | "foster":
            return mix(outcome("sequential", number + 1) + outcome("threaded", number + 2), "after")
        case "nested":
            return mix(mix(mix(number, "inner"), "inner"), "outer")
        case _:
            raise ValueError(kind)


def fostered(number: int) -> tuple[str, str]:
    """The ids of their own that the children of a `foster` run have."""
    return f"first-of-{number}", f"second-of-{number}"


def children(kind: str, number: int) -> dict[str, int]:
    """The runs that a run starts, by their ids, with what they end with."""
    match kind:
        case "parent":
            ids = (f"parent-{number}/sequential", f"parent-{number}/threaded")
        case "foster":
            ids = fostered(number)
        case _:
            return {}
    return dict(zip(ids, (outcome("sequential", number + 1), outcome("threaded", number + 2)), strict=True))
