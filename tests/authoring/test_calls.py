"""What a decorated function is to whoever calls it: in a module, in a test, outside of any run."""

from __future__ import annotations

import pytest

from perdure import DefinitionError, NonRetryableError, Perdure, Retry, UsageError, flow


@pytest.fixture
def app():
    return Perdure("memory://")


def test_decorators_work_with_and_without_arguments(app):
    @app.step
    async def one() -> int:
        """The first."""
        return 1

    @app.step()
    async def two() -> int:
        return 2

    @app.workflow
    async def three() -> int:
        """The third."""
        return 3

    @app.workflow()
    async def four() -> int:
        return 4

    assert [one.name, two.name, three.name, four.name] == ["one", "two", "three", "four"]
    assert (one.__name__, one.__doc__, one.__wrapped__) == ("one", "The first.", one.function)
    assert (three.__name__, three.__doc__, three.__module__) == ("three", "The third.", __name__)


async def test_outside_a_workflow_a_step_and_a_workflow_are_the_plain_functions(app):
    @app.step
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @app.step
    def shout(text: str) -> str:
        return text.upper()

    @app.workflow
    async def w(n: int) -> str:
        return await shout(str(await add(n)))

    assert await add(1, b=2) == 3
    assert await shout("x") == "X"
    assert await w(1) == "2"
    with pytest.raises(TypeError):
        await add()


async def test_a_failing_step_outside_a_workflow_is_not_retried(app):
    calls = []

    @app.step(retry=Retry(attempts=5))
    async def fails():
        calls.append(1)
        raise NonRetryableError("no")

    with pytest.raises(NonRetryableError):
        await fails()
    assert calls == [1]


def test_a_step_with_other_options_is_the_same_function(app):
    @app.step(retry=Retry(attempts=2), timeout=5)
    async def charge(cents: int) -> int:
        return cents

    other = charge.options(name="charge slowly", timeout="1 minute")
    assert (other.name, other.spec.timeout, other.spec.retry.attempts) == ("charge slowly", 60.0, 2)
    assert other.function is charge.function
    assert charge.options(retry=Retry(attempts=9)).spec.retry.attempts == 9
    assert (charge.name, charge.spec.timeout) == ("charge", 5.0), "the step itself is as it was"
    with pytest.raises(DefinitionError):
        charge.options(run_in="thread")
    with pytest.raises(UsageError):
        charge.options(name="a/b")
    with pytest.raises(UsageError):
        charge.options(timeout="soon")


@pytest.mark.parametrize(
    "call",
    [
        flow.now,
        flow.random,
        flow.uuid,
        flow.is_replaying,
        lambda: flow.set("x", 1),
        lambda: flow.patched("x"),
        flow.run_id,
        flow.attempt,
    ],
)
def test_what_belongs_into_a_run_says_so_outside(call):
    with pytest.raises(UsageError, match=r"flow\.\w+ was called outside"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: flow.sleep(1),
        lambda: flow.sleep_until(1),
        lambda: flow.wait_for_event("x", type="x"),
        lambda: flow.continue_as_new(),
    ],
)
async def test_what_is_awaited_in_a_run_says_so_outside(call):
    with pytest.raises(UsageError, match=r"outside a workflow; it belongs into workflow code"):
        await call()


async def test_flow_do_outside_a_workflow_is_the_plain_call():
    assert await flow.do("x", len, [1, 2]) == 2
