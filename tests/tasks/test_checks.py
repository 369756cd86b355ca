"""What is wrong with a step that calls one of these tasks is told when its workflow is published or built."""

from __future__ import annotations

import time
from typing import Any

import pytest

from perdure import DefinitionError, Perdure, testing, workflow
from perdure.tasks import (
    MailServer,
    data_transform,
    email_send_task,
    http_request,
    http_request_task,
    pdf_render_task,
)

MAIL = {"to": "a@example.org", "subject": "s", "text": "t"}
HELLO = "#let data = json(bytes(sys.inputs.data))\nHello #data.name"
PUBLIC = "http.request"
ONE = "orders.request"


def make_app(folder: Any) -> Perdure:
    (folder / "right.typ").write_text(HELLO)
    (folder / "bytes.typ").write_bytes(b"\xff\xfe")
    (folder / "wrong.typ").write_text("= Invoice\n#foo(\n")
    app = Perdure("memory://")
    app.add(
        http_request,
        http_request_task(name=ONE, base_url="http://127.0.0.1:1"),
        data_transform,
        pdf_render_task(templates=folder),
        pdf_render_task(name="small.render", max_bytes=1_000),
        email_send_task(MailServer("localhost", 1, tls="none")),
        email_send_task(MailServer("localhost", 1, tls="none", sender="shop@example.org"), name="shop.send"),
    )
    return app


WRONG = [
    (PUBLIC, {"url": "ftp://example.org/"}, [".url: ftp://example.org/ must begin with http:// or https://"]),
    (PUBLIC, {"url": "http://[::1"}, [".url: 'http://[::1' is none: "]),
    (PUBLIC, {"url": "http://xn--/"}, [".url: 'http://xn--/' is none: "]),
    (PUBLIC, {"url": "https://example.org:99999/"}, [".url: https://example.org:99999/ has a port that is none"]),
    (PUBLIC, {"url": "https://example.org", "headers": {"X-A": "a\nb"}}, [".headers: 'x-a' has a name or a value"]),
    (PUBLIC, {"url": "http://169.254.169.254/a"}, [".url: no request is made to 169.254.169.254: that is not"]),
    (PUBLIC, {"url": "http://[fd00:ec2::254]/"}, [".url: no request is made to fd00:ec2::254: that is not"]),
    (PUBLIC, {"url": "https://u:p@example.org/"}, [".url: https://example.org/ holds a user or a password"]),
    (
        PUBLIC,
        {"url": "${input.url}", "timeout": "soon", "headers": {"Host": "a"}, "json": 1, "body": "b"},
        [".headers: host cannot be given", ".json, body: a request has one body", ".timeout: 'soon' is no duration"],
    ),
    (PUBLIC, {"url": "https://example.org", "timeout": {"read": 4_000}}, [".timeout.read: it must be above 0"]),
    (PUBLIC, {"url": "https://example.org", "method": "FETCH"}, [".method: it does not fit Literal["]),
    (ONE, {"url": "/../admin"}, [".url: '/../admin' leads upwards (..), out of the path"]),
    (ONE, {"url": "https://example.org/"}, [".url: 'https://example.org/' must be a path"]),
    ("data.transform", {"expression": "a.", "data": "${input}"}, [".expression: 'a.' is no expression"]),
    ("pdf.render", {"data": 1}, [".template, source: give one of them"]),
    ("pdf.render", {"template": "right.typ", "source": "x"}, [".template, source: give one of them"]),
    ("pdf.render", {"template": "nothing.typ", "data": "${input}"}, [".template: there is no 'nothing.typ' in the"]),
    ("pdf.render", {"template": "../x", "data": "${input}"}, [".template: '../x' leads out of the folder"]),
    ("pdf.render", {"template": "wrong.typ", "data": "${input}"}, [".template: the template does not compile: error:"]),
    ("pdf.render", {"source": "a\n#foo(\n", "data": "${input}"}, [".source: the template does not compile: error:"]),
    ("pdf.render", {"template": "bytes.typ", "data": "${input}"}, [".template: the template does not compile: file"]),
    ("pdf.render", {"source": "#unknown"}, [".source: the template does not compile: error: unknown variable"]),
    ("pdf.render", {"source": HELLO, "data": {"nam": 1}}, [".source: the template does not compile: error: dict"]),
    ("small.render", {"source": "x"}, [".source: the PDF is "]),
    ("email.send", MAIL, [".sender: nobody is named, here or in MailServer(sender=...)"]),
    (
        "shop.send",
        {"to": "nobody", "cc": ["a@example.org", "b"], "subject": "a\nb", "headers": {"From": "x"}},
        [
            ".text, html: the message says nothing",
            ".to: 'nobody' is no address",
            ".cc: 'b' is no address",
            ".subject: 'a\\nb' holds a line break",
            ".headers: 'From' is no header that can be given",
        ],
    ),
    (
        "shop.send",
        {**MAIL, "attachments": [{"name": "a", "content": ""}, {"name": "b", "content": "?"}]},
        [".attachments[1].content is no base64"],
    ),
]  # fmt: skip
RIGHT = [
    (PUBLIC, {"url": "https://example.org/"}),
    (PUBLIC, {"url": "https://${input.host}/", "timeout": "${input.timeout}"}),
    (PUBLIC, {"url": "https://example.org/", "json": "${input.json}", "body": None}),
    (ONE, {"url": "/orders"}),
    ("data.transform", {"expression": "${input.expression}", "data": 1}),
    ("data.transform", {"expression": "sum(lines[].cents)", "data": "${input}"}),
    ("pdf.render", {"template": "right.typ", "data": "${input}"}),
    ("pdf.render", {"template": "right.typ", "data": {"name": "Ada"}}),
    ("pdf.render", {"template": "${input.template}"}),
    ("pdf.render", {"template": "${input.template}", "source": "${input.source}"}),
    ("email.send", {**MAIL, "sender": "${input.sender}"}),
    ("shop.send", {**MAIL, "text": "${input.text}", "to": ["${input.to}", "Ada <ada@example.org>"]}),
]


@pytest.mark.parametrize(("task", "data", "found"), WRONG)
async def test_what_can_be_known_is_told_when_it_is_published(tmp_path, task, data, found):
    app = make_app(tmp_path)
    async with testing.engine(app):
        with pytest.raises(DefinitionError) as caught:
            await app.publish({"name": "d", "definition": [{"taskName": task, "data": data}]})
        assert await app.definitions() == []
    told = [line for line in str(caught.value).splitlines() if line.startswith("  steps[0]")]
    assert len(told) == len(found)
    for said, expected in zip(told, found, strict=True):
        assert said.startswith(f"  steps[0].data{expected}")


@pytest.mark.parametrize(("task", "data"), RIGHT)
async def test_what_may_be_right_is_published(tmp_path, task, data):
    app = make_app(tmp_path)
    async with testing.engine(app):
        await app.publish({"name": "d", "definition": [{"taskName": task, "data": data}]})


def test_a_graph_in_code_is_told_when_it_is_built(tmp_path):
    render = make_app(tmp_path).registry.workflows["pdf.render"]
    with pytest.raises(DefinitionError, match=r"step 'pdf', data\.template: the template does not compile") as caught:
        workflow("d").step("pdf", render, data={"template": "wrong.typ", "data": "${input}"}).build()
    assert "wrong.typ:2:4" in str(caught.value)


def test_a_template_that_takes_its_time_is_not_wrong_and_not_waited_for(monkeypatch):
    monkeypatch.setattr("perdure.tasks.pdf.PDF_CHECK", 0.5)
    loops = "#for i in range(100000) { for j in range(100000) { let k = calc.sin(i * j) } }"
    began = time.monotonic()
    workflow("d").step("pdf", pdf_render_task(), data={"source": loops}).build()
    assert time.monotonic() - began < 5
