"""The gate tries the same examples each time, so that it fails for a change and not by chance.

To look for new ones: `pytest --hypothesis-profile=thorough`.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=2000, stateful_step_count=50, deadline=None)
settings.load_profile("gate")
