"""Typesets one document in a process of its own, which `perdure.tasks.pdf` starts; it knows nothing of Perdure.

The process is what bounds a template: one that loops is killed, one that fills the memory ends alone. It has no way to
the network: Typst would load packages from there.

An order comes as JSON on standard input. Out goes one line of JSON, then the PDF. An order without data is for the
template's syntax alone.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import typst

NOWHERE = "http://127.0.0.1:1"
"""A proxy that nobody is behind: where Typst's own downloads are sent."""

TOLD = 2_000
"""How much of what the compiler says is passed on, in characters."""

PARSED = "perdure: the template parses"

_PAGES = re.compile(rb"/Type\s*/Pages\s*/Count\s+(\d+)")


def main() -> None:
    """Carry out the order that is on standard input."""
    order: dict[str, Any] = json.load(sys.stdin.buffer)
    bound(order["seconds"], order["memory"])
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ[name] = NOWHERE
    for name in ("no_proxy", "NO_PROXY"):
        os.environ.pop(name, None)
    os.environ["RUST_BACKTRACE"] = "0"
    said, pdf = typeset(order)
    if len(pdf) > order["max_bytes"]:  # its length is all that is of use
        pdf = b""
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\n" + pdf)


def typeset(order: dict[str, Any]) -> tuple[dict[str, object], bytes]:
    """Return how many pages there are, with the PDF; or what the compiler says."""
    given = order["path"] if order["source"] is None else order["source"].encode()
    try:
        if order["data"] is None and parses(order):
            return {"pages": 0, "bytes": 0}, b""
        pdf = compiled(order, given)
    except typst.TypstError as error:
        return {"error": (error.diagnostic or error.message)[:TOLD]}, b""
    except RuntimeError as error:  # which the compiler raises for what is no diagnostic
        return {"error": str(error)[:TOLD]}, b""
    found = _PAGES.search(pdf)
    return {"pages": int(found[1]) if found else 0, "bytes": len(pdf)}, pdf


def parses(order: dict[str, Any]) -> bool:
    """Return whether a template is right as far as it can be read without its data.

    The compiler reads all of a file before it evaluates any: one that begins with a panic gets as far as that.
    """
    text = Path(order["path"]).read_bytes() if order["source"] is None else order["source"].encode()
    try:
        compiled(order, f'#panic("{PARSED}");'.encode() + text)
    except typst.TypstError as error:
        return f"panicked with: {PARSED}" in str(error.message)
    return True


def compiled(order: dict[str, Any], given: str | bytes) -> bytes:
    """Return the PDF of a template: of a file, or of its text.

    Raises:
        typst.TypstError, RuntimeError: it does not compile.
    """
    pdf: bytes = typst.compile(
        given,
        root=order["root"],
        font_paths=order["fonts"],
        ignore_system_fonts=True,
        format="pdf",
        sys_inputs={"data": order["data"] or "null"},
        package_path=order["root"],
        package_cache_path=order["root"],
    )
    return pdf


def bound(seconds: int, memory: int) -> None:
    """Have the system end this process when it takes more processor time, in seconds, or memory, in bytes."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  # there is none on Windows

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (ValueError, OSError):  # macOS refuses it
        pass


if __name__ == "__main__":
    main()
