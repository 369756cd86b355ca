"""Webhooks that come in, as an application declares them: which path starts which workflow, and for which requests."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, Unpack

from perdure.authoring.triggers import Subscription, subscription_of
from perdure.authoring.workflow import Workflow
from perdure.model.duration import Duration, seconds
from perdure.model.errors import DefinitionError, UsageError
from perdure.model.limits import NAME_LENGTH

Verifier: TypeAlias = Callable[[bytes, Mapping[str, str]], Any]
"""Takes a request's body and headers, and returns the event in it, or raises if it is not from whom it should be."""

HOOK_WITHIN: Duration = "4 days"
"""For how long a request that is sent again starts nothing: longer than services go on trying."""

_PATH = re.compile(r"(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9._~-]+)+")


class HookOptions(TypedDict, total=False):
    """Which requests a webhook that comes in takes, and how it tells them apart; see `Perdure.webhook`."""

    key: Callable[[Any], object] | None
    only: Sequence[str] | None
    where: str | Callable[[Any], object] | None
    within: Duration


@dataclass(frozen=True)
class Hook:
    """A workflow that requests to a path start.

    Attributes:
        path: the path.
        verify: finds out whether a request is from whom it should be, and what it says.
        workflow: what is started.
        subscription: how the event becomes its argument, and which events do.
        only: the types of event that are taken; None for all.
        key: what tells events apart; None for the id that the verifier has found.
        within: for how long (a duration) an event of the same key starts nothing.
    """

    path: str
    verify: Verifier
    workflow: Workflow[..., Any]
    subscription: Subscription
    only: frozenset[str] | None
    key: Callable[[Any], object] | None
    within: Duration


def hook_of(path: str, workflow: Workflow[..., Any], verify: Verifier, **options: Unpack[HookOptions]) -> Hook:
    """Return a webhook that comes in from what a user writes; see `Perdure.webhook`.

    Raises:
        DefinitionError: the workflow needs more than the event, or a function cannot be used.
        UsageError: an argument cannot be used.
    """
    if unknown := options.keys() - HookOptions.__annotations__.keys():
        known = ", ".join(HookOptions.__annotations__)
        raise UsageError(f"webhook: there is no option {min(unknown)!r} beside verify; known: {known}")
    only, key, within = options.get("only"), options.get("key"), options.get("within", HOOK_WITHIN)
    if isinstance(only, str) or (only is not None and not all(isinstance(each, str) for each in only)):
        raise UsageError(f"only: {only!r} must be a list of types of event, as in ['invoice.paid']")
    for name, function in (("verify", verify), ("key", key)):
        if function is not None and (not callable(function) or inspect.iscoroutinefunction(function)):
            raise DefinitionError(f"{name}: {function!r} must be a plain function")
    seconds(within, field="within")
    return Hook(
        path=check_path(path),
        verify=verify,
        workflow=workflow,
        subscription=subscription_of(workflow, path, options.get("where")),
        only=None if only is None else frozenset(only),
        key=key,
        within=within,
    )


def check_path(path: str) -> str:
    """Return the path of a webhook that comes in.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(path, str) or len(path) > NAME_LENGTH or not _PATH.fullmatch(path):
        raise UsageError(
            f"path: {path!r} must be as in '/hooks/stripe': parts of letters, digits and '-._~', each after a '/', at "
            f"most {NAME_LENGTH} characters; a URL that is to be told of runs takes events= and secret= instead"
        )
    return path


def add_hook(hooks: dict[str, list[Hook]], hook: Hook) -> None:
    """Add a webhook that comes in to those of an application, by path.

    Raises:
        DefinitionError: the path has another verifier, or starts that workflow already.
    """
    beside = hooks.setdefault(hook.path, [])
    for other in beside:
        if other.verify is not hook.verify:
            raise DefinitionError(
                f"webhook {hook.path!r} has another verifier, for workflow {other.workflow.name!r}; a path has one: "
                "make it once, and give it to both"
            )
        if other.workflow.name == hook.workflow.name:
            raise DefinitionError(f"webhook {hook.path!r} starts workflow {hook.workflow.name!r} already")
    beside.append(hook)
