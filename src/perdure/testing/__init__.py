"""What users test their workflows with: virtual time, mocks of steps, crashes, and recorded journals replayed."""

from perdure.testing.crashing import crash_everywhere
from perdure.testing.engine import Engine, engine
from perdure.testing.journal import export_journal
from perdure.testing.mocks import Mock, StepCall
from perdure.testing.replaying import DriftError, ReplayReport, replay, replay_journal
from perdure.testing.world import VirtualWorld

__all__ = [
    "DriftError",
    "Engine",
    "Mock",
    "ReplayReport",
    "StepCall",
    "VirtualWorld",
    "crash_everywhere",
    "engine",
    "export_journal",
    "replay",
    "replay_journal",
]
