"""What can be asked of a server, written once: awaited on a `Publisher`, and waited for on a `BlockingPublisher`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from perdure.publisher.asking import Pages, Plan
from perdure.publisher.links import AsyncLink, AsyncListed, BlockingLink, Listed

P = ParamSpec("P")
T = TypeVar("T")
Link = TypeVar("Link", AsyncLink, BlockingLink)


class Area(Generic[Link]):
    """What belongs together of the message API.

    Args:
        link: carries out what is asked.
    """

    def __init__(self, link: Link) -> None:
        self._link: Link = link


class verb(Generic[P, T]):  # noqa: N801  # a decorator
    """A method that is written as a plan, and carried out by the area's link.

    On an area that is awaited it is a coroutine function; on one that waits, a function.
    """

    def __init__(self, plan: Callable[Concatenate[Any, P], Plan[T]]) -> None:
        self._plan = plan
        self.__doc__ = plan.__doc__

    @overload
    def __get__(self, area: Area[AsyncLink], kind: Any) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __get__(self, area: Area[BlockingLink], kind: Any) -> Callable[P, T]: ...

    @overload
    def __get__(self, area: None, kind: Any) -> Self: ...

    def __get__(self, area: Any, kind: Any) -> Any:
        if area is None:
            return self
        plan = functools.partial(self._plan, area)

        @functools.wraps(self._plan)
        def ask(*args: P.args, **kwargs: P.kwargs) -> Any:
            return area._link.carry_out(plan(*args, **kwargs))

        return ask


class listing(Generic[P, T]):  # noqa: N801  # a decorator
    """A method that lists what comes page by page: for `async for` on an area that is awaited, or for `for`."""

    def __init__(self, pages: Callable[Concatenate[Any, P], Pages[T]]) -> None:
        self._pages = pages
        self.__doc__ = pages.__doc__

    @overload
    def __get__(self, area: Area[AsyncLink], kind: Any) -> Callable[P, AsyncListed[T]]: ...

    @overload
    def __get__(self, area: Area[BlockingLink], kind: Any) -> Callable[P, Listed[T]]: ...

    @overload
    def __get__(self, area: None, kind: Any) -> Self: ...

    def __get__(self, area: Any, kind: Any) -> Any:
        if area is None:
            return self
        pages = functools.partial(self._pages, area)

        @functools.wraps(self._pages)
        def ask(*args: P.args, **kwargs: P.kwargs) -> Any:
            return area._link.listed(pages(*args, **kwargs))

        return ask
