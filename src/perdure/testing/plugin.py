"""The pytest plugin: the fixtures `perdure_app` and `engine`, and the marker `crash_everywhere`.

pytest loads it by itself where Perdure is installed. It is the only module of Perdure that needs pytest.
"""

from __future__ import annotations

import copy
from collections.abc import Generator

import pytest
from _pytest.runner import runtestprotocol

from perdure.engine.app import Perdure
from perdure.testing.crashing import COMMITS, crash_points, planned
from perdure.testing.store import CrashPlan

MARKER = "crash_everywhere"
_ASYNCIO = ("asyncio", "pytest_asyncio.plugin")  # as pytest finds it by itself, and as it is named with `-p`
_PLAN = pytest.StashKey[CrashPlan]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the `engine` fixture in the form that this session's async tests need."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(commits={COMMITS}): run the test once straight, then again with a crash at every commit it made",
    )
    has_asyncio = any(map(config.pluginmanager.hasplugin, _ASYNCIO))
    name = "async_fixture" if has_asyncio else "plain_fixture"
    config.pluginmanager.import_plugin(f"perdure.testing.{name}")


@pytest.fixture
def perdure_app() -> Perdure:
    """The application under test: override this fixture to return yours."""
    pytest.fail(
        "the `engine` fixture needs your application: define a fixture `perdure_app` in conftest.py that returns it",
        pytrace=False,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a marked test as often as it takes; fixtures of the test itself are made anew each time."""
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return None
    limit = marker.kwargs.get("commits", COMMITS)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = _run_everywhere(item, limit)
    for report in [*reports, *_take_down(item, nextitem)]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Name the crash point in what a test raises."""
    try:
        return (yield)
    except Exception as error:
        plan = item.stash.get(_PLAN, None)
        if plan is not None:
            error.add_note(f"{MARKER}: it was run {plan}")
        raise


def _run_everywhere(item: pytest.Item, limit: int) -> list[pytest.TestReport]:
    """Return the reports to give: those of the first run that did not pass, else those of the run without a crash."""
    plan = CrashPlan()
    straight = _run_once(item, plan)
    if not _has_passed(straight):
        return straight
    try:
        points = crash_points(plan, limit)
    except Exception as error:
        return _failed(straight, str(error))
    for point in points:
        reports = _run_once(item, CrashPlan(point))
        for report in reports:
            if report.when == "call":
                straight[1].duration += report.duration
        if not _has_passed(reports):
            return reports
    return straight


def _run_once(item: pytest.Item, plan: CrashPlan) -> list[pytest.TestReport]:
    item.stash[_PLAN] = plan
    again = copy.copy(item)  # as the next test, it has pytest take down this test, and nothing above it
    with planned(plan):
        reports = runtestprotocol(item, log=False, nextitem=again)
    for report in reports:
        if report.failed and report.when != "call":
            report.sections.append((MARKER, f"it was run {plan}"))
    return reports


def _take_down(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """Take down what the next test does not need of what stands above this one; return a report where that fails."""
    call = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(nextitem), when="teardown")
    return [] if call.excinfo is None else [item.ihook.pytest_runtest_makereport(item=item, call=call)]


def _has_passed(reports: list[pytest.TestReport]) -> bool:
    return len(reports) == 3 and all(report.passed and not hasattr(report, "wasxfail") for report in reports)


def _failed(reports: list[pytest.TestReport], message: str) -> list[pytest.TestReport]:
    for report in reports:
        if report.when == "call":
            report.outcome = "failed"
            report.longrepr = message
    return reports
