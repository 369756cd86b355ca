"""`pdf.render`: a PDF from a Typst template and data."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import importlib.util
import json as json_text
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from perdure.authoring.task import Task
from perdure.model.duration import Duration, seconds
from perdure.model.errors import NonRetryableError, StepError, UsageError
from perdure.model.retry import Retry
from perdure.tasks.checking import raised

PDF_BYTES = 700_000
"""How long a PDF may be, in bytes; base64 makes it a third longer, which fits `Limits.payload_bytes`."""

PDF_MEMORY = 2 << 30
"""How much address space the typesetting of one document may take, in bytes."""

PDF_CHECK = 5.0
"""How long a template is looked at when a workflow with it is published or built, in seconds."""

PDF_RETRY = Retry(attempts=3, delay="1s")

_GIVE_ONE = "template, source: give one of them, a file's name or a template's text"

_SCRIPT = Path(__file__).with_name("typesetting.py")
_TOLD = 2_000


class RenderedPdf(msgspec.Struct, frozen=True):
    """A PDF.

    Attributes:
        pdf: the file, in base64.
        pages: how many it has.
        bytes: how long it is.
    """

    pdf: str
    pages: int
    bytes: int


class TemplateError(NonRetryableError):
    """A template is not there or does not compile."""


class PdfTooLargeError(NonRetryableError):
    """A PDF is longer than the task allows."""


class PdfError(StepError):
    """A PDF was not made in time, or its process was ended."""


def pdf_render_task(
    *,
    templates: str | os.PathLike[str] | None = None,
    fonts: Sequence[str | os.PathLike[str]] = (),
    name: str = "pdf.render",
    queue: str = "default",
    timeout: Duration = "1m",
    max_bytes: int = PDF_BYTES,
    retry: Retry = PDF_RETRY,
) -> Task[..., RenderedPdf]:
    """Return a task that makes PDFs.

    Args:
        templates: the folder of templates, with what they include; templates can read nothing outside it.
        fonts: folders of fonts beside those that come with Typst; those of the system are not used.
        name: the task's name.
        queue, retry: of the task.
        timeout: for one document (a duration).
        max_bytes: how long a PDF may be.

    Raises:
        UsageError: the folder is not there, an option is out of its range, or Typst is not installed.
    """
    if importlib.util.find_spec("typst") is None:
        raise UsageError(f"{name} needs typst: pip install 'perdure[pdf]'")
    folder = None if templates is None else _folder(templates, "templates")
    within = seconds(timeout, field="timeout")
    if within == 0 or max_bytes < 1:
        raise UsageError(f"timeout={timeout!r}, max_bytes={max_bytes}: both must be above 0")
    press = _Press(folder, [str(_folder(each, "fonts")) for each in fonts], within, max_bytes)

    def pdf_render(template: str | None = None, source: str | None = None, data: Any = None) -> RenderedPdf:
        """Make a PDF.

        Args:
            template: the name of a file in the folder of templates.
            source: a template's own text, in place of a name.
            data: what the template reads with `json(bytes(sys.inputs.data))`.

        Raises:
            TemplateError: there is no such template, or it does not compile; with the line.
            PdfTooLargeError: the PDF is longer than allowed. PdfError: it was not made in time, and is tried again.
        """
        return press.render(template, source, data)

    return Task.of(pdf_render, name=name, queue=queue, retry=retry, check=functools.partial(_flaws, press))


@dataclasses.dataclass(frozen=True, slots=True)
class _Press:
    """Typesets templates of one folder, each within so many seconds. Of a PDF over `max_bytes` it learns the length."""

    folder: Path | None
    fonts: list[str]
    within: float
    max_bytes: int

    def render(self, template: str | None, source: str | None, data: Any) -> RenderedPdf:
        """Return the PDF, if it is not too long."""
        rendered = self.typeset(template, source, msgspec.json.encode(data).decode())
        if rendered.bytes > self.max_bytes:
            raise PdfTooLargeError(
                f"{'source' if template is None else 'template'}: the PDF is {rendered.bytes:,} bytes, over max_bytes "
                f"= {self.max_bytes:,}; make it smaller (images!), or make the task with a larger max_bytes (and "
                "Limits.payload_bytes)"
            )
        return rendered

    def typeset(self, template: str | None, source: str | None, data: str | None) -> RenderedPdf:
        """Return the PDF; without data, look at the template's syntax alone."""
        if (template is None) == (source is None):
            raise TemplateError(_GIVE_ONE)
        with tempfile.TemporaryDirectory(prefix="perdure-pdf-") as empty:
            order = {
                "path": None if template is None else str(_found(self.folder, template)),
                "source": source,
                "root": str(self.folder or empty),
                "fonts": self.fonts,
                "data": data,
                "seconds": math.ceil(self.within),
                "memory": PDF_MEMORY,
                "max_bytes": self.max_bytes,
            }
            return _typeset(order, self.within)


def _flaws(press: _Press, known: Mapping[str, Any], given: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with a template before it is used; see `perdure.authoring.workflow.Check`."""
    named = {"template", "source"} & set(given)
    if not named:
        yield _GIVE_ONE
    elif named <= known.keys():
        of = (known.get("template"), known.get("source"))
        press = dataclasses.replace(press, within=min(press.within, PDF_CHECK))
        with contextlib.suppress(PdfError):  # it may be made in time when it counts
            if "data" in given and "data" not in known:
                yield from raised(press.typeset, *of, None)
            else:
                yield from raised(press.render, *of, known.get("data"))


def _folder(path: str | os.PathLike[str], field: str) -> Path:
    if not Path(path).is_dir():
        raise UsageError(f"{field}: {os.fspath(path)!r} is no folder")
    return Path(path).resolve()


def _found(folder: Path | None, template: str) -> Path:
    if folder is None:
        raise TemplateError(f"template: {template!r} was asked for, but the task was made without templates=")
    try:
        path = (folder / template).resolve()
        is_there = path.is_file()
    except (OSError, ValueError):  # no file can have such a name
        path, is_there = folder, False
    if not path.is_relative_to(folder):
        raise TemplateError(f"template: {template!r} leads out of the folder of templates")
    if not is_there:
        raise TemplateError(f"template: there is no {template[:80]!r} in the folder of templates")
    return path


def _typeset(order: dict[str, Any], within: float) -> RenderedPdf:
    # -P: this folder has modules that are named like the standard library's.
    command = [sys.executable, "-P", str(_SCRIPT)]
    told = json_text.dumps(order).encode()
    try:
        ran = subprocess.run(  # noqa: S603  # our own script
            command, input=told, capture_output=True, timeout=within, check=False, cwd=order["root"]
        )
    except subprocess.TimeoutExpired:
        raise PdfError(f"the PDF was not made within {within:g} s") from None
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip()[:_TOLD]
        raise PdfError(
            f"the process of the typesetting ended with {ran.returncode}; its template takes too much? {said}"
        )
    line, _, pdf = ran.stdout.partition(b"\n")
    answer: dict[str, Any] = json_text.loads(line)
    if "error" in answer:
        what = str(answer["error"]).replace("__typst_py_bytes__.typ", "source").strip()
        where = "source" if order["path"] is None else "template"
        raise TemplateError(f"{where}: the template does not compile: {what}")
    return RenderedPdf(base64.b64encode(pdf).decode(), answer["pages"], answer["bytes"])


pdf_render = pdf_render_task()
