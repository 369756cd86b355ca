"""When a cron expression fires, in a time zone, over its changes of the clock.

The wall clock decides: `0 9 * * *` is nine in the morning there, summer and winter. Where the clock is put forward, a
time that does not exist fires once, at the first moment after the gap, however many such times fall into it. Where it
is put back, a time that exists twice fires once, the first time. An expression whose hours are all 24 goes by elapsed
time instead: `*/5 * * * *` fires every five minutes, in both passes of an hour that is repeated, and in none of an hour
that is left out.
"""

from __future__ import annotations

import datetime as dt
import itertools
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from perdure.model.errors import UsageError

_ORIGIN = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""From when an expression is looked at to see whether it ever fires; no year is like another to it."""

_LOOKED_AT = 100
"""How many fires the shortest time between two is taken from."""

_MINUTE = dt.timedelta(minutes=1)
_EVERY_HOUR = 24
_FIELDS = 5


class Cron:
    """A cron expression in a time zone.

    Args:
        expression: five fields (minute, hour, day of the month, month, day of the week), or six with seconds ahead of
            them. Names (`mon-fri`, `jan`), lists, ranges and steps; `L` is the last day of the month, `LW` its last
            working day, `5L` its last Friday, `mon#2` its second Monday.
        zone: the name of an IANA time zone, as in `Europe/Paris`.
        field: the argument's name, for the error.

    Raises:
        UsageError: the expression is none, or never fires; the zone is unknown.
    """

    def __init__(self, expression: str, zone: str = "UTC", *, field: str = "cron") -> None:
        if not isinstance(expression, str):
            raise UsageError(f"{field}: {expression!r} must be text, as in '0 9 * * mon-fri'")
        self.zone = time_zone(zone)
        # With seconds given, the library leaves changes of the clock to us.
        self._expression = f"0 {expression}" if len(expression.split()) == _FIELDS else expression
        try:
            parsed = CronSim(self._expression, _ORIGIN)
            next(parsed)
        except CronSimError as error:
            if "day-of-month" in str(error) and _is_sound_in_some_month(self._expression):
                raise _never(expression, field) from None
            raise UsageError(
                f"{field}: {expression!r} is no cron expression ({error}); write five fields (minute, hour, day of the "
                "month, month, day of the week), as in '0 9 * * mon-fri', or six with seconds first"
            ) from None
        except StopIteration:
            raise _never(expression, field) from None
        self._is_elapsed = len(parsed.hours) == _EVERY_HOUR

    def after(self, moment: int) -> int:
        """Return the first fire later than a moment, both in milliseconds since the epoch."""
        local = dt.datetime.fromtimestamp(moment / 1000, self.zone)
        if self._is_elapsed:
            return _milliseconds(next(CronSim(self._expression, local)))
        walls = CronSim(self._expression, local.replace(tzinfo=None))
        while (fire := _milliseconds(self._existing(next(walls)))) <= moment:
            pass
        return fire

    def shortest_period(self) -> int:
        """Return the shortest time between two fires, in milliseconds, but for changes of the clock."""
        fires = [_milliseconds(fire) for fire in itertools.islice(CronSim(self._expression, _ORIGIN), _LOOKED_AT)]
        return min(later - earlier for earlier, later in itertools.pairwise(fires))

    def _existing(self, wall: dt.datetime) -> dt.datetime:
        """Return the moment at which the wall clock shows a time first, or the end of the gap that the time is in."""
        moment = wall.replace(tzinfo=self.zone, fold=0)
        if _exists(moment):
            return moment
        moment = moment.replace(second=0)
        while not _exists(moment):
            moment += _MINUTE
        return moment


def time_zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError):
        raise UsageError(f"tz: {name!r} is no IANA time zone; write it as in 'Europe/Paris', or 'UTC'") from None


def _never(expression: str, field: str) -> UsageError:
    return UsageError(f"{field}: {expression!r} never fires: there is no such day")


def _is_sound_in_some_month(expression: str) -> bool:
    *time_and_day, _, weekday = expression.split()
    try:
        CronSim(" ".join((*time_and_day, "*", weekday)), _ORIGIN)
    except CronSimError:
        return False
    return True


def _exists(moment: dt.datetime) -> bool:
    return moment == moment.astimezone(dt.UTC).astimezone(moment.tzinfo)


def _milliseconds(moment: dt.datetime) -> int:
    return round(moment.timestamp()) * 1000
