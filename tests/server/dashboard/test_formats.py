from __future__ import annotations

from perdure.model.failure import encode_error
from perdure.model.record import ErrorInfo, Record
from perdure.model.redaction import Redaction
from perdure.server.dashboard.charts import HEIGHT, POINTS, chart
from perdure.server.dashboard.formats import ago, moment, number, plain_part, size
from perdure.server.dashboard.payloads import SHOWN, error_of, line, record_line, shown

NOTHING = Redaction()


def test_how_far_a_time_is():
    assert ago(0, 500) == "just now"
    assert ago(500, 0) == "now"
    assert ago(0, 61_000) == "1 min ago"
    assert ago(90_000_000, 0) == "in 1 d"


def test_times_sizes_and_numbers():
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment(None) == ""
    assert [size(count) for count in (12, 64_000, 5_000_000, 7_000_000_000_000)] == [
        "12 bytes",
        "64.0 kB",
        "5.0 MB",
        "7000.0 GB",
    ]
    assert [number(count) for count in (1_234_567, 0.25, 12.34, 3.0)] == ["1,234,567", "0.25", "12.3", "3"]
    assert plain_part("a/b %ü") == "a%2Fb%20%25%C3%BC"


def test_a_short_value_is_one_line_and_a_longer_one_is_indented():
    assert shown('{"a":1}', NOTHING).text == '{"a": 1}'
    assert "\n  " in shown('{"a":"' + "x" * 100 + '"}', NOTHING).text
    assert shown(None, NOTHING) is None
    assert shown("no json", NOTHING).text == "no json"


def test_a_large_value_is_cut_and_says_so():
    cut = shown('"' + "x" * SHOWN + '"', NOTHING)
    assert cut.is_cut
    assert len(cut.text) == SHOWN
    assert cut.size == SHOWN + 2
    assert not shown('"x"', NOTHING).is_cut


def test_named_fields_are_masked_in_all_that_is_shown():
    hidden = Redaction(("card",))
    assert shown('{"card":"4242"}', hidden).text == '{"card": "***"}'
    assert line('{"card":"4242"}', hidden) == '{"card":"***"}'
    assert line("x" * 500, hidden).endswith("…")
    assert line(None, hidden) == ""


def test_an_error_stands_in_a_table_as_its_message():
    payload = encode_error(ErrorInfo("builtins:ValueError", "no", traceback="Traceback …"))
    assert record_line(Record(1, "a", "step", "error", 0, payload), NOTHING) == "ValueError: no"
    assert record_line(Record(1, "a", "step", "ok", 0, "5"), NOTHING) == "5"
    assert error_of("{") is None
    assert error_of(None) is None


def test_a_chart_fits_its_box():
    drawn = chart([(0, 0), (5, 10), (10, 5)])
    assert drawn.line == "M0.0 100.0L300.0 6.0L600.0 53.0"
    assert drawn.area.endswith(f"V{HEIGHT}H0Z")
    assert (drawn.most, drawn.last, drawn.span) == (10, 5, 10)
    assert chart([(0, 1)]) is None


def test_a_chart_of_many_points_keeps_its_peaks_and_few_of_the_rest():
    drawn = chart([(at, 7 if at == 301 else 1) for at in range(720)])
    assert drawn.line.count("L") == POINTS
    assert drawn.line.count(" 6.0") == 1
    assert drawn.line.endswith("L600.0 86.6")
    assert (drawn.most, drawn.last, drawn.span) == (7, 1, 719)


def test_a_chart_of_nothing_lies_at_the_bottom():
    assert chart([(0, 0), (5, 0)]).line == "M0.0 100.0L600.0 100.0"
