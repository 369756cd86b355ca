"""`pdf.render`: what is in the PDF, and what a template cannot do."""

from __future__ import annotations

import base64
import io
import socket
import sys
import time
import tracemalloc

import pypdf
import pytest

from perdure import Perdure, RunFailedError, UsageError, testing
from perdure.tasks import PdfError, PdfTooLargeError, RenderedPdf, TemplateError, pdf_render, pdf_render_task
from perdure.tasks.typesetting import NOWHERE

HELLO = "#let data = json(bytes(sys.inputs.data))\n#set page(width: 8cm, height: 4cm)\nHello #data.name, #data.total €."


def read(rendered: RenderedPdf) -> pypdf.PdfReader:
    return pypdf.PdfReader(io.BytesIO(base64.b64decode(rendered.pdf)))


async def test_data_comes_out_as_text():
    rendered = await pdf_render(source=HELLO, data={"name": "Zoë", "total": 12.5})
    assert read(rendered).pages[0].extract_text().strip() == "Hello Zoë, 12.5 €."
    assert rendered.bytes == len(base64.b64decode(rendered.pdf))


@pytest.mark.parametrize("pages", [1, 2, 300])
async def test_pages_are_counted(pages):
    rendered = await pdf_render(source="#set page(width: 4cm, height: 3cm)\n" + "#pagebreak()\n".join(["x\n"] * pages))
    assert rendered.pages == len(read(rendered).pages) == pages


async def test_templates_come_from_their_folder_and_include_each_other(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "head.typ").write_text("#let head = [The Shop]")
    (tmp_path / "invoice.typ").write_text('#import "parts/head.typ": head\n#head: #json(bytes(sys.inputs.data)).number')
    task = pdf_render_task(templates=tmp_path)
    rendered = await task("invoice.typ", data={"number": "2026-7"})
    assert read(rendered).pages[0].extract_text().strip() == "The Shop: 2026-7"
    rendered = await task(source='#import "/parts/head.typ": head\n#head')
    assert read(rendered).pages[0].extract_text().strip() == "The Shop"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("one\n#foo(\n", "unclosed delimiter\n.*source:2:4"),
        ("#unknown", "unknown variable: unknown"),
        ("#json(bytes(sys.inputs.data)).total", 'dictionary does not contain key "total"'),
        ('#panic("no lines")', "panicked with: no lines"),
        ("#let f(n) = f(n + 1)\n#f(1)", "maximum function call depth exceeded"),
    ],
)
async def test_a_template_that_does_not_compile_says_where(source, said):
    with pytest.raises(TemplateError, match=f"the template does not compile: error: {said}"):
        await pdf_render(source=source, data={})


@pytest.mark.parametrize(
    "reading",
    [
        'read("{0}")',
        'read("../secret.txt")',
        'read("/../secret.txt")',
        'read("templates/../../secret.txt")',
        'include "../secret.txt"',
        'image("../secret.txt")',
    ],
)
async def test_a_template_reads_nothing_outside_its_root(tmp_path, reading):
    folder = tmp_path / "templates"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    source = "#" + reading.format(tmp_path / "secret.txt")
    for task in (pdf_render, pdf_render_task(templates=folder)):
        with pytest.raises(TemplateError, match="not found|escape the project root") as caught:
            await task(source=source)
        assert "secret." in str(caught.value)
    (folder / "t.typ").write_text(source)
    with pytest.raises(TemplateError, match="not found|escape the project root"):
        await pdf_render_task(templates=folder)("t.typ")


@pytest.mark.parametrize(
    "name", ["../secret.txt", "/etc/passwd", "parts/../../secret.txt", "nothing.typ", ".", "", "a\0b", "a" * 5_000]
)
async def test_a_name_leads_to_a_template_or_nowhere(tmp_path, name):
    folder = tmp_path / "templates"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    with pytest.raises(TemplateError, match="^template: "):
        await pdf_render_task(templates=folder)(name)


async def test_a_link_out_of_the_folder_is_no_template(tmp_path):
    folder = tmp_path / "templates"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.typ").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(TemplateError, match="leads out of the folder"):
        await pdf_render_task(templates=folder)("link.typ")


async def test_no_package_is_loaded_from_the_network(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        way_out = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, way_out)
        monkeypatch.setenv("no_proxy", "*")
        for package in ('"@preview/cetz:0.1.0"', '("@pre" + "view/cetz:0.1.0")'):
            with pytest.raises(TemplateError, match="failed to download package.*refused"):
                await pdf_render(source=f"#import {package}: *")
        with pytest.raises(TimeoutError):
            listener.accept()
    assert NOWHERE.endswith(":1")


async def test_one_of_name_and_text_is_given():
    for given in ({}, {"template": "a.typ", "source": "x"}):
        with pytest.raises(TemplateError, match="^template, source: give one of them"):
            await pdf_render(**given)
    with pytest.raises(TemplateError, match="made without templates="):
        await pdf_render("a.typ")


async def test_a_template_that_does_not_end_is_stopped():
    loops = "#for i in range(100000) { for j in range(100000) { let k = calc.sin(i * j) } }"
    began = time.monotonic()
    with pytest.raises(PdfError, match=r"not made within 0\.5 s"):
        await pdf_render_task(timeout="500ms")(source=loops)
    assert time.monotonic() - began < 5


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound a process's memory")
async def test_a_template_that_eats_memory_ends_alone():
    hungry = "#{ let a = (1, 2); for i in range(60) { a = a + a } }"
    with pytest.raises(PdfError, match="takes too much"):
        await pdf_render_task(timeout="20s")(source=hungry)


async def test_a_pdf_that_is_too_large_to_be_stored_says_so():
    with pytest.raises(PdfTooLargeError, match=r"over max_bytes = 1,000; make it smaller"):
        await pdf_render_task(max_bytes=1_000)(source=HELLO, data={"name": "a", "total": 1})


async def test_no_more_of_a_pdf_is_taken_in_than_is_allowed():
    long = pdf_render_task(max_bytes=1_000)
    tracemalloc.start()
    try:
        with pytest.raises(PdfTooLargeError, match=r"the PDF is \d\d,\d\d\d,\d\d\d bytes"):
            await long(source="#set document(title: range(2000000).map(str).join())\nx")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


async def test_in_an_engine_a_template_that_fails_is_not_tried_again():
    app = Perdure("memory://")
    app.add(pdf_render)
    async with testing.engine(app) as engine:
        run = await app.start(pdf_render, input={"source": HELLO, "data": {"name": "Ada", "total": 1}})
        rendered = await engine.result(run)
        assert isinstance(rendered, RenderedPdf)
        assert read(rendered).pages[0].extract_text().strip() == "Hello Ada, 1 €."
        run = await app.start(pdf_render, input={"source": "#nothing"})
        with pytest.raises(RunFailedError) as caught:
            await engine.result(run)
        assert isinstance(caught.value.__cause__, TemplateError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": "no-such-folder"}, "templates: .*no-such-folder' is no folder"),
        ({"fonts": ["no-such-folder"]}, "fonts: .*no-such-folder' is no folder"),
        ({"timeout": 0}, "timeout=0"),
        ({"max_bytes": 0}, "max_bytes=0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(options, message):
    with pytest.raises(UsageError, match=message):
        pdf_render_task(**options)
