"""The operations of a store that clients ask for over HTTP: `Perdure("https://…")` at the other end.

These paths are no part of the API that is described: both ends take them from the store's contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from fastapi import Request
from msgspec.structs import asdict, replace
from starlette.responses import Response

from perdure.authoring.announcing import entry_of
from perdure.authoring.graphs.definition import Definition
from perdure.core.saga import CANCEL, DECISION
from perdure.engine.triggers.scheduler import PREFIX, WORKFLOW
from perdure.model.decision import Action, Control, Message, Posted
from perdure.model.errors import UsageError
from perdure.model.queue import QueueState
from perdure.server.access import Access, Operator, Viewer
from perdure.server.errors import Problem, ProblemError, invalid
from perdure.server.live import until_gone
from perdure.server.masking import masked
from perdure.server.portions import first_runs, records_behind
from perdure.server.principal import Role
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.security.audit import COLLECTION as AUDIT
from perdure.server.storable import require_storable
from perdure.store.operations import OPERATIONS, PATH, READING, WAIT, Heard, Operation, Records, Wait

APPLICATION = "app."
"""What the names of collections begin with that are an application's own; the others are the server's."""

SHOWN = {"workers": Role.VIEWER, AUDIT: Role.OPERATOR}
"""Which of the server's collections may be read, and by whom."""

_NOT_TAKEN = (Posted.NO_RUN, Posted.FINISHED, Posted.FULL)
_OF_ENDED = (Action.RESTART, Action.DISCARD)

router = routes("store")


async def _answer(access: Access, request: Request, operation: Operation) -> Response:
    arguments = await _read_body(request, operation.read)
    await require_storable(access, operation.name, arguments)
    own = _OWN.get(operation.name)
    if own is not None:
        answer = await own(access, arguments)
    else:
        answer = await getattr(access.app.store, operation.name)(**asdict(arguments))
    return reply(masked(answer, access.redaction))


async def _create(access: Access, given: Any) -> object:
    for new in given.runs:
        if new.workflow == WORKFLOW:
            await access.audit("schedules.create", new.id.removeprefix(PREFIX))
        elif ":" in new.fingerprint:  # which begins with that of the run it goes on from, and says from where
            await access.audit("runs.fork", new.id, origin=new.fingerprint)
    created = await access.app.store.create(given.runs)
    if access.app.worker is not None:
        access.app.worker.wake()
    return created


async def _post(access: Access, given: Any) -> object:
    for message in given.messages:
        await _audit_message(access, message)
    recorded = list(access.recorded)
    capacity = min(given.capacity, access.app.settings.limits.inbox_messages)
    posted = await access.app.store.post(given.messages, given.now, capacity)
    refused = {message.run_id for message, became in zip(given.messages, posted, strict=True) if became in _NOT_TAKEN}
    for action, target in recorded:
        if target in refused or f"{PREFIX}{target}" in refused:
            await access.audit_failure(action, target)
    access.app.client.posted(message.run_id for message in given.messages)
    return posted


async def _audit_message(access: Access, message: Message) -> None:
    """Write down what an operator tells a run; events are the run's own affair."""
    if message.type == CANCEL:
        await access.audit("runs.terminate", message.run_id, undo=True)
    elif message.type == DECISION:
        verdict = msgspec.json.decode(message.payload or "{}")
        await access.audit(
            f"undos.{verdict['verb']}", message.run_id, verdict.get("reason") or "", key=verdict.get("key")
        )
    elif message.run_id.startswith(PREFIX):
        await access.audit("schedules.change", message.run_id.removeprefix(PREFIX), change=message.payload)


async def _control(access: Access, given: Any) -> object:
    by_action: dict[Action, list[Control]] = {}
    for each in given.actions:
        by_action.setdefault(each.action, []).append(each)
    for action, some in by_action.items():
        ids = [each.run_id for each in some]
        if len(ids) == 1:
            await access.audit(f"runs.{action.value}", ids[0])
        else:
            await access.audit(f"runs.{action.value}", "", count=len(ids), ids=ids)
    done = await access.app.store.control(given.actions, given.now)
    for each, became in zip(given.actions, done, strict=True):
        if became.before is None or became.untold or (became.before.is_finished and each.action not in _OF_ENDED):
            await access.audit_failure(f"runs.{each.action.value}", each.run_id)
        else:
            access.app.client.controlled(each.action, became)
    access.server.hearing(access.namespace).changed()
    return done


async def _prune(access: Access, given: Any) -> object:
    """Remove what retention has given up by now, and nothing that it has not."""
    removed = await access.app.store.prune(min(given.before, access.app.world.now()), given.limit)
    access.server.hearing(access.namespace).changed()
    return removed


async def _define(access: Access, given: Any) -> object:
    for definition in given.definitions:
        await access.audit("definitions.publish", definition.name, version=definition.version)
    return await access.app.store.define(given.definitions)


async def _publish(access: Access, given: Any) -> object:
    """Make definitions known that are kept, as the server itself describes them; code is what workers announce."""
    kept = {(each.name, each.version): each for each in await access.app.store.definitions()}
    entries = []
    for number, entry in enumerate(given.entries):
        stored = kept.get((entry.workflow, entry.version))
        if stored is None:
            raise UsageError(f"entries[{number}].workflow: there is no definition {entry.workflow!r} of that version")
        dag = await asyncio.to_thread(Definition.of_stored(stored).compile, None, access.app.client.registry.find)
        entries.append(entry_of(dag, access.app.world.now(), ""))
    await access.app.store.publish(entries)
    return None


async def _set_queue(access: Access, given: Any) -> object:
    state: QueueState = given.state
    before = next((each for each in await access.app.store.queues() if each.name == state.name), QueueState(state.name))
    if before.is_paused != state.is_paused:
        await access.audit("queues.pause" if state.is_paused else "queues.resume", state.name)
    if before.limits != state.limits or before.is_paused == state.is_paused:
        await access.audit("queues.limit", state.name, limits=msgspec.to_builtins(state.limits))
    is_kept = await access.app.store.set_queue(state)
    if not is_kept:
        for action, target in list(access.recorded):
            await access.audit_failure(action, target)
    if access.app.worker is not None:
        access.app.worker.wake()
    return is_kept


async def _put(access: Access, given: Any) -> object:
    for document in given.documents:
        if not document.collection.startswith(APPLICATION):
            raise Problem(
                403,
                "Not allowed",
                f"collection {document.collection!r} is the server's: yours begin with {APPLICATION!r}",
            )
    return await access.app.store.put(given.documents)


async def _read(access: Access, given: Any) -> object:
    _require_shown(access, given.collection)
    return await access.app.store.read(given.collection, given.keys)


async def _documents(access: Access, given: Any) -> object:
    _require_shown(access, given.collection)
    return await access.app.store.documents(given.collection, given.limit, given.after, given.newest_first)


async def _collections(access: Access, given: Any) -> object:
    return [name for name in await access.app.store.collections() if _is_shown(access, name)]


async def _get(access: Access, given: Any) -> object:
    """Return the runs, or the first of them where their values are large: the list's length says so."""
    return await first_runs(access.app.store, given.run_ids)


async def _journal(access: Access, given: Any) -> object:
    found, has_more = await records_behind(access.app.store, given.run_id, given.after, given.limit)
    return Records(masked(found, access.redaction), not has_more)


async def _describe(access: Access, given: Any) -> object:
    """Say what the store is; where it is, and how it is set, is the operators' affair."""
    info = await access.app.store.describe()
    return replace(info, url="", settings=info.settings if access.principal.role >= Role.OPERATOR else {})


async def _clock(access: Access, given: Any) -> object:
    return access.app.world.now()


_OWN: Mapping[str, Callable[[Access, Any], Awaitable[object]]] = {
    "create": _create,
    "post": _post,
    "control": _control,
    "prune": _prune,
    "define": _define,
    "publish": _publish,
    "set_queue": _set_queue,
    "put": _put,
    "read": _read,
    "documents": _documents,
    "collections": _collections,
    "get": _get,
    "journal": _journal,
    "describe": _describe,
    "clock": _clock,
}
"""The operations that are more than a call of the store's."""


@router.post(f"{PATH}wait", operation_id="store_wait", include_in_schema=False)
async def wait(access: Viewer, request: Request) -> Response:
    """Answer as soon as something may have ended."""
    given: Wait = await _read_body(request, _read_wait)
    if not 0 <= given.timeout <= WAIT:
        raise UsageError(f"timeout: {given.timeout} must be from 0 to {WAIT:g} seconds")
    with access.server.streams.place(access.principal):
        number = await _heard(access, request, given)
    await access.require_held(request.scope)
    return reply(Heard(number))


async def _heard(access: Access, request: Request, given: Wait) -> str:
    """Return the number of the last change, as soon as it is another one, or nobody waits for it any longer."""
    heard = asyncio.ensure_future(access.server.hearing(access.namespace).wait(given.last, given.timeout))
    gone = asyncio.ensure_future(until_gone(request.receive))
    try:
        await asyncio.wait([heard, gone], return_when=asyncio.FIRST_COMPLETED)
        return heard.result() if heard.done() else given.last
    finally:
        for each in (heard, gone):
            each.cancel()
        await asyncio.gather(heard, gone, return_exceptions=True)


def _for_viewers(operation: Operation) -> Callable[..., Awaitable[Response]]:
    async def ask(access: Viewer, request: Request) -> Response:
        return await _answer(access, request, operation)

    return ask


def _for_operators(operation: Operation) -> Callable[..., Awaitable[Response]]:
    async def ask(access: Operator, request: Request) -> Response:
        return await _answer(access, request, operation)

    return ask


for _operation in OPERATIONS.values():
    router.add_api_route(
        f"{PATH}{_operation.name}",
        (_for_viewers if _operation.name in READING else _for_operators)(_operation),
        methods=["POST"],
        operation_id=f"store_{_operation.name}",
        response_model=None,
        include_in_schema=False,
    )


_encode = msgspec.json.Encoder().encode
_read_wait = msgspec.json.Decoder(Wait).decode


async def _read_body(request: Request, read: Callable[[bytes], Any]) -> Any:
    """Return a body as its very type: what belongs to none is refused, so nothing can be large or deep for nothing."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "Not JSON", "send JSON as application/json")
    body = await request.body()
    try:
        given = read(body)
        if (kept := _encode(given)) != body:  # else a client of ours has written it, and each part has been read
            _require_read(await request.json(), msgspec.json.decode(kept), "body")
        return given
    except msgspec.ValidationError as error:
        raise _misfit(error) from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Problem(400, "Malformed JSON", f"body: {error}", errors=[ProblemError("body", str(error))]) from None


def _require_read(given: Any, kept: Any, path: str) -> None:
    """Refuse what nobody reads: a field of another version would be lost without a word.

    Args:
        given: a part of a body.
        kept: what was read of it, written anew.
        path: of the part.

    Raises:
        Problem: more was given than is kept.
    """
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, inner in given.items():
            if name not in kept:
                raise invalid(
                    f"{path}: Object contains unknown field `{name[:100]}`",
                    [ProblemError(path, f"Object contains unknown field `{name[:100]}`")],
                )
            _require_read(inner, kept[name], f"{path}.{name}")
    elif isinstance(given, list) and isinstance(kept, list):
        if len(given) > len(kept):
            message = f"Array has {len(given)} items, of which {len(kept)} have a meaning"
            raise invalid(f"{path}: {message}", [ProblemError(path, message)])
        for number, inner in enumerate(given):
            _require_read(inner, kept[number], f"{path}[{number}]")


def _misfit(error: msgspec.ValidationError) -> Problem:
    message, _, place = str(error).partition(" - at `$")
    path = f"body{place.rstrip('`')}"
    return invalid(f"{path}: {message}", [ProblemError(path, message)])


def _is_shown(access: Access, collection: str) -> bool:
    least = Role.VIEWER if collection.startswith(APPLICATION) else SHOWN.get(collection)
    return least is not None and access.principal.role >= least


def _require_shown(access: Access, collection: str) -> None:
    if not _is_shown(access, collection):
        raise Problem(403, "Not allowed", f"what is in the collection {collection!r} is not shown")
