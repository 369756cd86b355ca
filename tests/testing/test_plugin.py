"""The plugin, as pytest runs it for a user: in a process of its own, with and without pytest-asyncio."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
    import pytest
    from perdure import Perdure, flow

    app = Perdure("sqlite:///no/such/folder/store.db")
    charged = []

    @app.step
    async def charge(cents: int) -> int:
        charged.append(cents)
        return cents

    @app.workflow
    async def checkout(cents: int) -> int:
        await flow.sleep("3 days")
        return await charge(cents)

    @pytest.fixture
    def perdure_app():
        return app

    @pytest.fixture
    def bank():
        charged.clear()
        return charged

    @pytest.fixture(scope="module")
    def once():
        print("module up")
        yield
        print("module down")
"""


class Run:
    def __init__(self, result: pytest.RunResult) -> None:
        self.outcomes = result.parseoutcomes()
        self.text = result.stdout.str()


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run a test file in pytest, with options.

    Only the plugins that matter are loaded, unless `all_plugins`: those that are installed here take seconds.
    """

    def run(source: str, *options: str, conftest: str = CONFTEST, all_plugins: bool = False) -> Run:
        pytester.makeconftest(conftest)
        pytester.makepyfile(source)
        plugins = ["no:perdure", "perdure.testing.plugin", "no:cacheprovider"]  # ours once, installed or not
        if not all_plugins:
            monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            plugins += ["xdist.plugin"]
        if "no:asyncio" not in options:
            pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
            plugins += [] if all_plugins else ["pytest_asyncio.plugin"]
        named = [f"-p{name}" for name in plugins]
        result = pytester.runpytest_subprocess(*named, "--strict-markers", "-W", "error", "-rA", *options)
        return Run(result)

    return run


ASYNC = """
    import pytest
    from conftest import charge, checkout, app
    {mark}

    async def test_it(engine, perdure_app):
        with engine.mock(charge, returns=7) as mock:
            run = await app.start(checkout, 5)
            await engine.advance("3 days")
            assert await run.result() == 7
        assert [call.args for call in mock.calls] == [(5,)]
        assert engine.app is perdure_app
"""


@pytest.mark.parametrize(("mode", "mark"), [("auto", ""), ("strict", "pytestmark = pytest.mark.asyncio")])
def test_the_engine_fixture_in_both_modes_of_pytest_asyncio(run, mode: str, mark: str):
    assert run(ASYNC.format(mark=mark), f"--asyncio-mode={mode}").outcomes == {"passed": 1}


def test_the_engine_fixture_where_pytest_finds_all_plugins_by_itself(run):
    assert run(ASYNC.format(mark=""), "--asyncio-mode=auto", all_plugins=True).outcomes == {"passed": 1}


PLAIN = """
    from conftest import checkout, app

    def test_it(engine):
        async def body():
            return await engine.result(await app.start(checkout, 5))

        assert engine.run(body()) == 5
"""


@pytest.mark.parametrize("options", [(), ("-p", "no:asyncio")], ids=["with", "without"])
def test_plain_tests_with_and_without_pytest_asyncio(run, options: tuple[str, ...]):
    assert run(PLAIN, *options).outcomes == {"passed": 1}


def test_without_an_application_it_says_what_to_do(run):
    result = run(
        """
        def test_it(engine):
            pass
        """,
        conftest="",
    )
    assert result.outcomes == {"errors": 1}
    assert "define a fixture `perdure_app` in conftest.py that returns it" in result.text


EVERYWHERE = """
    import pytest
    from conftest import checkout, charge, app, charged

    @pytest.mark.crash_everywhere
    async def test_the_outcome(engine, bank, once):
        run = await app.start(checkout, 5, id="order")
        await engine.advance("3 days")
        assert await run.result() == 5

    @pytest.mark.crash_everywhere
    async def test_one_charge(engine, bank, once):
        run = await app.start(checkout, 5, id="order")
        await engine.advance("3 days")
        assert bank == [5]

    async def test_after(engine, bank, once):
        assert bank == []
"""


def test_crash_everywhere_names_the_point_of_a_failure(run):
    result = run(EVERYWHERE, "--asyncio-mode=auto", "-s")
    assert result.outcomes == {"passed": 2, "failed": 1}
    assert "assert [5, 5] == [5]" in result.text
    point = (
        "with a crash at commit 2 ('sleep' of run 'order'), right after it was acknowledged, with the next steps begun"
    )
    assert f"E       crash_everywhere: it was run {point}" in result.text
    assert result.text.count("module up") == 1, "only what belongs to the test is made anew"
    assert result.text.count("module down") == 1


def test_crash_everywhere_runs_the_test_for_each_commit_with_fresh_fixtures(run):
    source = """
        import pytest
        from conftest import checkout, app

        @pytest.fixture
        def mine():
            print("mine")
            return []

        @pytest.mark.crash_everywhere
        async def test_it(mine, engine):
            mine.append(1)
            assert mine == [1]
            run = await app.start(checkout, 5)
            assert await engine.result(run) == 5

        @pytest.mark.crash_everywhere
        async def test_its_own_engine(perdure_app):
            from perdure import testing
            print("own")
            async with testing.engine(perdure_app) as engine:
                assert await engine.result(await app.start(checkout, 5)) == 5
    """
    result = run(source, "--asyncio-mode=auto", "-s")
    assert result.outcomes == {"passed": 2}
    assert result.text.count("mine\n") == 10  # straight, and three times for each of three commits
    assert result.text.count("own\n") == 10


@pytest.mark.parametrize(
    ("test", "outcome", "text"),
    [
        ("assert 0, 'wrong anyway'", "failed", "crash_everywhere: it was run without a crash"),
        ("pytest.skip('not today')", "skipped", "not today"),
        ("pytest.xfail('known')", "xfailed", "known"),
        ("pass", "failed", "crash_everywhere: the test made no commit"),
        ("await much()", "failed", "say crash_everywhere"),
        ("await much(); pytest.fail('at the end')", "failed", "at the end"),
    ],
)
def test_crash_everywhere_without_a_crash(run, test: str, outcome: str, text: str):
    source = f"""
        import pytest
        from conftest import checkout, app

        async def much():
            for _ in range(3):
                await app.start(checkout, 5)
                await one.advance("3 days")

        @pytest.mark.crash_everywhere(commits=3)
        async def test_it(engine):
            global one
            one = engine
            {test}
    """
    result = run(source, "--asyncio-mode=auto")
    assert result.outcomes == {outcome: 1}
    assert text in result.text


def test_what_stands_above_the_test_is_taken_down_once_and_its_failure_told(run):
    source = """
        import pytest
        from conftest import checkout, app

        @pytest.fixture(scope="module")
        def broken():
            yield
            raise OSError("cannot be taken down")

        @pytest.mark.crash_everywhere
        async def test_it(engine, broken):
            await engine.result(await app.start(checkout, 5))
    """
    result = run(source, "--asyncio-mode=auto")
    assert result.outcomes == {"passed": 1, "errors": 1}
    assert "ERROR at teardown of test_it" in result.text


def test_crash_everywhere_in_plain_tests_and_under_xdist(run):
    source = """
        import pytest
        from conftest import checkout, app

        @pytest.mark.crash_everywhere
        def test_it(engine):
            async def body():
                return await engine.result(await app.start(checkout, 5))

            assert engine.run(body()) == 5
    """
    assert run(source, "-p", "no:asyncio", "-n", "1").outcomes == {"passed": 1}


def test_pytest_finds_the_plugin_by_itself():
    points = importlib.metadata.entry_points(group="pytest11")
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pytest11]\nperdure = "perdure.testing.plugin"' in text
    assert {point.value for point in points if point.name == "perdure"} <= {"perdure.testing.plugin"}


def test_the_kit_itself_needs_no_pytest():
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['_pytest'] = sys.modules['pytest_asyncio'] = None; "
        "import perdure.testing; perdure.testing.engine"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
