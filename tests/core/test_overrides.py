from __future__ import annotations

from typing import Any

from perdure import Retry
from perdure.core.ask import ChildAsk, ChildSpec, StepSpec
from perdure.core.child import child_run
from perdure.core.overrides import Overrides, overridden
from perdure.model.codec import Shape
from perdure.model.run import Run, RunStatus

SHAPE = Shape(Any, "it")


async def body() -> None: ...


def spec(**options: Any) -> StepSpec:
    given: dict[str, Any] = {"retry": Retry(attempts=7, unless=(KeyError,)), "timeout": 60.0, **options}
    return StepSpec("pay", body, "loop", result=SHAPE, is_native=True, **given)


def through_text(overrides: Overrides) -> StepSpec:
    text = overrides.encode()
    assert text is not None
    return overridden(spec(), text)


def test_a_policy_replaces_the_numbers_and_keeps_what_is_never_retried():
    changed = through_text(Overrides.of(Retry(attempts=2, delay="1m", backoff="linear", max_delay="2m", jitter=0), 5.0))
    assert changed.retry == Retry(2, 60.0, "linear", 120.0, 0.0, unless=(KeyError,))
    assert changed.timeout == 5.0
    assert changed.name == "pay"


def test_a_policy_without_a_cap():
    assert through_text(Overrides.of(Retry(attempts=2), None)).retry.max_delay is None


def test_some_fields_of_a_policy():
    wanted = Overrides.of(Retry(attempts=2, delay="1m", jitter=0), 5.0, ["delay", "jitter"])
    assert wanted == Overrides(delay=60.0, jitter=0.0, timeout=5.0)
    assert through_text(wanted).retry == Retry(7, 60.0, jitter=0.0, unless=(KeyError,))
    assert Overrides.of(Retry(), None, ()).encode() is None


def test_a_timeout_alone():
    changed = through_text(Overrides.of(None, 5.0))
    assert changed.retry == spec().retry
    assert changed.timeout == 5.0


def test_no_overrides_are_no_text():
    assert Overrides.of(None, None).encode() is None


def test_they_travel_in_the_input_record():
    child = ChildSpec("pay", "", "default", "{}", "f", SHAPE, overrides='{"attempts":2}')
    run = Run("r", "w", RunStatus.RUNNING, 0, 0)
    assert child_run(run, ChildAsk("pay", None, child, "r/pay"), 5).records[0].ref == '{"attempts":2}'
