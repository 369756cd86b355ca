"""What QStash's API shows of a run of the protocol: out of its row and journal, pure. What is to be redacted is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.dispatch.messages.delivery import told_of
from perdure.dispatch.messages.message import Answer, Message, canonical
from perdure.dispatch.messages.showing import Delivery, about, content
from perdure.dispatch.upstash.ledger import Noted, ledger_of, what_of
from perdure.dispatch.upstash.submission import Call, Invoke, Step, Wait
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus

STARTED, SUCCESS, FAILED, CANCELED = "RUN_STARTED", "RUN_SUCCESS", "RUN_FAILED", "RUN_CANCELED"

STATES: dict[str, tuple[RunStatus, ...]] = {
    STARTED: (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED),
    SUCCESS: (RunStatus.COMPLETE,),
    FAILED: (RunStatus.ERRORED,),
    CANCELED: (RunStatus.TERMINATED,),
}
"""What a run's statuses are called."""

_CALLBACKS = {
    RunStatus.COMPLETE: "CALLBACK_SUCCESS",
    RunStatus.ERRORED: "CALLBACK_FAIL",
    RunStatus.TERMINATED: "CALLBACK_CANCELED",
}
_ANSWER = msgspec.json.Decoder(Answer)
_STEP_NAME = "upstash-error-step-name"


class Shown:
    """A run with its journal, as the API shows it.

    Args:
        run: its row.
        records: its journal.
        told: the message that tells of its failure; None for none.

    Attributes:
        run, told: see above.
        ledger: what the run has come to.
    """

    def __init__(self, run: Run, records: Sequence[Record], told: Delivery | None = None) -> None:
        self.run = run
        self.told = told
        self.ledger = ledger_of(records)
        self._attempts: dict[str, list[tuple[Record, Answer]]] = {}
        for record in records:
            name = what_of(record)
            if record.kind in ("step", "child") and record.state == "ok" and name.startswith(("deliver ", "call ")):
                answer = _ANSWER.decode(record.payload or "{}")
                if not answer.held_back:
                    self._attempts.setdefault(name, []).append((record, answer))

    @property
    def state(self) -> str:
        """What the run's status is called."""
        return next((state for state, statuses in STATES.items() if self.run.status in statuses), STARTED)

    @property
    def callback_state(self) -> str:
        """What has become of the message that tells of the failure; empty where there is none."""
        return "" if self.told is None else _CALLBACKS.get(self.told.run.status, "CALLBACK_INPROGRESS")

    def logged(self) -> dict[str, Any]:
        """Return the run as `GET /v2/workflows/logs` shows it."""
        run, trigger = self.run, self.ledger.trigger
        found: dict[str, Any] = {
            "workflowRunId": run.id,
            "workflowUrl": trigger.url,
            "workflowState": self.state,
            "workflowRunCreatedAt": run.created_at,
            "steps": self._groups(),
            **self._labels(),
        }
        if run.finished_at is not None:
            found["workflowRunCompletedAt"] = run.finished_at
        if run.status is RunStatus.COMPLETE and run.output:
            response = msgspec.json.decode(run.output).get("response")
            if response is not None:
                found["workflowRunResponse"] = response
        if trigger.invoker is not None:
            found["invoker"] = {
                "workflowRunId": trigger.invoker.run_id,
                "workflowUrl": trigger.invoker.url,
                "workflowRunCreatedAt": trigger.invoker.created_at,
            }
        if run.status is RunStatus.ERRORED:
            found["dlqId"] = run.id
        if self.told is not None:
            last = self._last_failure()
            found["failureFunction"] = {
                "messageId": self.told.id,
                "url": self.told.message.url,
                "state": self.callback_state,
                "failHeaders": canonical(last.headers),
                "failStatus": last.status,
                "failResponse": _text(last),
                "dlqId": run.id,
                **self._callback_answer(),
            }
        return found

    def dead(self) -> dict[str, Any]:
        """Return the run as `GET /v2/dlq?source=workflow` shows it."""
        trigger, last = self.ledger.trigger, self._last_failure()
        message = trigger.message
        found: dict[str, Any] = {
            "dlqId": self.run.id,
            "messageId": self.ledger.entries[-1].entry.message_id,
            "url": trigger.url,
            "method": "POST",
            "maxRetries": message.retries,
            "notBefore": message.not_before,
            "createdAt": self.run.created_at,
            **about(message),
            **content(message),
            "workflowRunId": self.run.id,
            "workflowCreatedAt": self.run.created_at,
            "workflowUrl": trigger.url,
            "responseStatus": last.status,
            "responseHeader": canonical(last.headers),
            "responseBody": _text(last),
            **self._labels(),
        }
        found.setdefault("body", "")
        if self.told is not None:
            found["failureCallback"] = self.told.message.url
            found["failureCallbackInfo"] = {"state": self.callback_state, **self._callback_answer()}
        return found

    # Inside.

    def _labels(self) -> dict[str, Any]:
        message = self.ledger.trigger.message
        found: dict[str, Any] = {}
        if message.labels:
            found |= {"label": message.labels[0], "labels": list(message.labels)}
        if message.flow_control is not None:
            found["flowControlKey"] = message.flow_control.key
        return found

    def _callback_answer(self) -> dict[str, Any]:
        if self.told is None or not self.told.attempts:
            return {}
        answer = self.told.attempts[-1][1]
        return {
            "responseStatus": answer.status,
            "responseBody": _text(answer),
            "responseHeaders": canonical(answer.headers),
        }

    def _last_failure(self) -> Answer:
        """Return what the run failed with, as far as it was an answer."""
        failed = [each for made in self._attempts.values() for each in made if not each[1].is_delivered]
        made = failed or [each for every in self._attempts.values() for each in every]
        return max(made, key=lambda each: each[0].position)[1] if made else Answer(0)

    def _groups(self) -> list[dict[str, Any]]:
        """Return the steps: those one after the other, those at once together, and what is under way."""
        groups: list[dict[str, Any]] = []
        parallel: dict[int, dict[str, Any]] = {}
        for noted in self.ledger.entries:
            fields = noted.fields
            if fields is None:
                groups.append({"type": "sequential", "steps": [self._initial(noted)]})
            elif fields.target_step is not None:
                group = parallel.get(fields.target_step)
                if group is None:
                    group = {"type": "parallel", "steps": []}
                    groups.append(group)
                    first = fields.target_step
                    parallel |= dict.fromkeys(range(first, first + fields.concurrent), group)
                group["steps"].append(self._step(noted, fields.target_step, is_open=True))
            elif fields.step_id in parallel:
                steps = parallel[fields.step_id]["steps"]
                steps[:] = [each for each in steps if each["stepId"] != fields.step_id]
                steps.append(self._step(noted, fields.step_id))
                steps.sort(key=lambda each: int(each["stepId"]))
            else:
                groups.append({"type": "sequential", "steps": [self._step(noted, fields.step_id)]})
        groups += [{"type": "sequential", "steps": [each]} for each in self._open() if each["stepId"] not in parallel]
        if (following := self._following()) is not None:
            groups.append({"type": "next", "steps": [following]})
        return groups

    def _initial(self, noted: Noted) -> dict[str, Any]:
        message = self.ledger.trigger.message
        shown = content(message)
        return {
            "stepName": "init",
            "stepType": "Initial",
            "callType": "step",
            "messageId": noted.entry.message_id,
            "out": shown.get("body", shown.get("bodyBase64", "")),
            "concurrent": 1,
            "retries": message.retries,
            "state": "STEP_SUCCESS",
            "createdAt": self.run.created_at,
            "headers": shown["header"],
        }

    def _step(self, noted: Noted, step_id: int, *, is_open: bool = False) -> dict[str, Any]:
        step = msgspec.json.decode(noted.entry.content)
        message = noted.source.message
        due_at = noted.source.due_at if isinstance(noted.source, Step) else 0
        found = {
            "stepId": step_id,
            "stepName": step.get("stepName", ""),
            "stepType": step.get("stepType", ""),
            "callType": "step",
            "messageId": noted.entry.message_id,
            "out": step.get("out"),
            "concurrent": step.get("concurrent", 1),
            "retries": message.retries,
            "state": self._progress() if is_open or due_at > self.run.updated_at else "STEP_SUCCESS",
            "createdAt": noted.at,
            "headers": canonical(message.headers),
        }
        for name in ("sleepFor", "sleepUntil"):
            if step.get(name) is not None:
                found[name] = step[name]
        return {**found, **self._about(step_id)}

    def _open(self) -> list[dict[str, Any]]:
        """Return the calls, waits and invoked runs that have not ended."""
        kinds: tuple[tuple[str, dict[int, Any]], ...] = (
            ("Call", self.ledger.calls),
            ("Wait", self.ledger.waits),
            ("Invoke", self.ledger.invokes),
        )
        return [
            {
                "stepId": step_id,
                "stepName": given.name if isinstance(given, Call) else msgspec.json.decode(given.step).get("stepName"),
                "stepType": kind,
                "callType": "toCallback" if isinstance(given, Call) else "step",
                "messageId": given.message_id,
                "concurrent": 1,
                "retries": given.message.retries,
                "state": self._progress(),
                "createdAt": self.run.created_at,
                "headers": canonical(given.message.headers),
                **self._about(step_id),
            }
            for kind, every in kinds
            for step_id, given in every.items()
            if not self.ledger.has_result(step_id)
        ]

    def _about(self, step_id: int) -> dict[str, Any]:
        """Return what is shown of a step beyond its result, because of its kind."""
        given: Call | Wait | Invoke | None = (
            self.ledger.calls.get(step_id) or self.ledger.waits.get(step_id) or self.ledger.invokes.get(step_id)
        )
        if isinstance(given, Call):
            return {**_of_call(given.message), **self._answered(step_id)}
        if isinstance(given, Wait):
            is_late = any(noted.is_late and noted.source is given for noted in self.ledger.entries)
            return {
                "waitEventId": given.event_id,
                "waitTimeoutDuration": given.timeout,
                "waitTimeoutDeadline": given.deadline,
                "waitTimeout": is_late,
            }
        if isinstance(given, Invoke):
            return {
                "invokedWorkflowRunId": given.run_id,
                "invokedWorkflowUrl": given.trigger.url,
                "invokedWorkflowCreatedAt": given.trigger.message.published_at,
                "invokedWorkflowRunBody": content(given.trigger.message).get("body", ""),
                "invokedWorkflowRunHeaders": content(given.trigger.message)["header"],
            }
        return {}

    def _answered(self, step_id: int) -> dict[str, Any]:
        made = self._attempts.get(f"call {step_id}")
        if not made:
            return {}
        answer = made[-1][1]
        return {
            "callResponseStatus": answer.status,
            "callResponseBody": _text(answer),
            "callResponseHeaders": canonical(answer.headers),
        }

    def _following(self) -> dict[str, Any] | None:
        """Return the delivery that the run stands at."""
        index = len(self.ledger.entries) - 1
        if self.ledger.is_behind(index) or self.run.status is RunStatus.COMPLETE:
            return None
        made = self._attempts.get(f"deliver {index}", [])
        if made and made[-1][1].is_delivered and self.run.status is not RunStatus.ERRORED:
            return None
        errors = [
            {
                "error": told_of(answer),
                "body": _text(answer),
                "headers": canonical(answer.headers),
                "status": answer.status,
                "time": record.at,
            }
            for record, answer in made
            if not answer.is_delivered
        ]
        state = self._progress()
        names = [value for _, answer in made for name, value in answer.headers if name.lower() == _STEP_NAME]
        return {
            "messageId": self.ledger.entries[index].entry.message_id,
            "state": "STEP_RETRY" if errors and state == "STEP_PROGRESS" else state,
            "retries": max(0, len(made) - 1),
            **({"stepName": names[-1]} if names else {}),
            **({"errors": errors} if errors else {}),
        }

    def _progress(self) -> str:
        """Return the state of what has not ended."""
        return {FAILED: "STEP_FAILED", CANCELED: "STEP_CANCELED"}.get(self.state, "STEP_PROGRESS")


def _of_call(message: Message) -> dict[str, Any]:
    shown = content(replace(message, callback=None))
    return {
        "callUrl": message.url,
        "callMethod": message.method,
        "callHeaders": shown["header"],
        "callBody": shown.get("body", shown.get("bodyBase64", "")),
    }


def _text(answer: Answer) -> str:
    return answer.body or answer.body_base64 or answer.error
