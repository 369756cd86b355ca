"""`email.send` against a real mail server."""

from __future__ import annotations

import base64

import pytest

from perdure import Perdure, RunFailedError, UsageError, testing
from perdure.tasks import Attachment, EmailError, EmailRefusedError, MailServer, SentEmail, email_send_task
from tests.tasks.post_office import PostOffice, post_office
from tests.tasks.serving import client_context, server_context


def sending(office: PostOffice, **options):
    settings = {"tls": "none", "sender": "Shop <shop@example.org>", "timeout": 5, **options}
    return email_send_task(MailServer("localhost", office.port, **settings))


async def test_a_message_arrives_as_it_was_given():
    async with post_office() as office:
        sent = await sending(office)(
            ["Ada <ada@example.org>", "bob@example.org, Zoë <zoe@example.org>"],
            "Größe 1",
            text="Hällo\n.\nbye",
            html="<b>Hällo</b>",
            cc="carl@example.org",
            bcc=["dora@example.org", "ada@example.org"],
            reply_to="help@example.org",
            attachments=[
                Attachment("invoice.pdf", base64.b64encode(b"%PDF\x00").decode(), "application/pdf"),
                Attachment("größe.csv", base64.b64encode(b"a;b\n").decode(), "text/csv"),
                Attachment("blob", ""),
            ],
            headers={"X-Order": "order-7"},
        )
    (mail,) = office.mails
    message = mail.message
    people = ["ada@example.org", "bob@example.org", "zoe@example.org", "carl@example.org", "dora@example.org"]
    assert (mail.sender, mail.recipients) == ("shop@example.org", people)
    assert message["From"] == "Shop <shop@example.org>"
    assert message["To"] == "Ada <ada@example.org>, bob@example.org, Zoë <zoe@example.org>"
    assert (message["Cc"], message["Reply-To"]) == ("carl@example.org", "help@example.org")
    assert message["Bcc"] is None, "or everybody would see it"
    assert (message["Subject"], message["X-Order"]) == ("Größe 1", "order-7")
    assert message["Date"].datetime.tzinfo is not None
    assert message.get_body(("plain",)).get_content().splitlines() == ["Hällo", ".", "bye"]
    assert message.get_body(("html",)).get_content().strip() == "<b>Hällo</b>"
    files = [
        (part.get_filename(), part.get_content_type(), part.get_payload(decode=True))
        for part in message.iter_attachments()
    ]
    assert files == [
        ("invoice.pdf", "application/pdf", b"%PDF\x00"),
        ("größe.csv", "text/csv", b"a;b\n"),
        ("blob", "application/octet-stream", b""),
    ]
    assert sent == SentEmail(message["Message-ID"], people, {})
    assert sent.message_id.endswith("@example.org>")


async def test_one_of_text_and_html_will_do():
    async with post_office() as office:
        await sending(office)("a@example.org", "s", text="plain")
        await sending(office)("a@example.org", "s", html="<p>rich</p>")
    assert [mail.message.get_content_type() for mail in office.mails] == ["text/plain", "text/html"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject", "Hello\r\nBcc: eve@example.org"),
        ("subject", "Hello\nBcc: eve@example.org"),
        ("subject", "Hello\rX: y"),
        ("subject", "Hello\0"),
        ("subject", "Hello\x85X: y"),
        ("subject", "Hello\u2028X: y"),
        ("to", "a@example.org\nBcc: eve@example.org"),
        ("cc", ["a@example.org", "b@example.org\r\nX: y"]),
        ("bcc", "a@example.org\n"),
        ("sender", "a@example.org\r\nX: y"),
        ("reply_to", "a@example.org\nX: y"),
        ("headers", {"X-A": "b\r\nBcc: eve@example.org"}),
        ("headers", {"X-A: b\r\nBcc": "eve@example.org"}),
        ("attachments", [Attachment("a\r\nX: y", "")]),
        ("attachments", [Attachment("a", "", "text/plain\r\nX: y")]),
    ],
)
async def test_no_field_can_become_another_header(field, value):
    given = {"to": "a@example.org", "subject": "s", "text": "t", field: value}
    async with post_office() as office:
        with pytest.raises(EmailRefusedError, match=field):
            await sending(office)(**given)
        assert office.mails == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": None}, "text, html: the message says nothing"),
        ({"to": "nobody"}, "to: 'nobody' is no address; write ada@example.org or"),
        ({"to": "Ada Lovelace ada@example.org"}, "to: .* is no address"),
        ({"to": "<a@example.org"}, "to: .* is no address"),
        ({"to": ""}, "to: '' is no address"),
        *[
            ({"to": text}, "to: .* is no address")
            for text in ("a@", "?a@[,\\)", ":1.;é ", "é@[  ", " .]%\\", "zoë@example.org")
        ],
        ({"to": []}, "sender, to: a message is from one and goes to 1 to 100 addresses"),
        ({"to": [f"a{n}@example.org" for n in range(101)]}, "sender, to: .* 1 to 100 addresses"),
        ({"sender": "a@example.org, b@example.org"}, "sender, to: a message is from one"),
        ({"cc": "a@" + "x" * 64 + ".org"}, "cc: .* has a domain that is no name"),
        ({"headers": {"From": "x@example.org"}}, "headers: 'From' is no header that can be given"),
        ({"headers": {"content-type": "text/html"}}, "headers: 'content-type'"),
        ({"headers": {"Message-Id": "<x@y>"}}, "headers: 'Message-Id'"),
        ({"attachments": [Attachment("a", "no base64!")]}, r"attachments\[0\].content is no base64"),
        (
            {"attachments": [Attachment("a", ""), Attachment("b", "", "pdf")]},
            r"attachments\[1\].type: 'pdf' is no type",
        ),
        ({"attachments": [Attachment("a", "", "message/rfc822")]}, r"attachments\[0\].type"),
    ],
)
async def test_a_message_that_cannot_be_sent_says_which_field_is_wrong(given, message):
    task = email_send_task(MailServer("localhost", 1, tls="none", sender="shop@example.org"))
    with pytest.raises(EmailRefusedError, match=f"^{message}"):
        await task(**{"to": "a@example.org", "subject": "s", "text": "t", **given})


async def test_somebody_has_to_be_the_sender():
    with pytest.raises(EmailRefusedError, match=r"^sender: nobody is named, here or in MailServer\(sender=\.\.\.\)"):
        await email_send_task(MailServer("localhost", 1, tls="none"))("a@example.org", "s", text="t")


async def test_a_domain_of_other_letters_is_written_as_servers_know_it():
    async with post_office() as office:
        await sending(office)("ada@bücher.example", "s", text="t")
    assert office.mails[0].recipients == ["ada@xn--bcher-kva.example"]


@pytest.mark.parametrize(("said", "error"), [("451 try later", EmailError), ("554 spam", EmailRefusedError)])
async def test_what_the_server_says_decides_whether_it_is_tried_again(said, error):
    async with post_office() as office:
        office.says = [said]
        with pytest.raises(error, match=f"localhost answered {said}"):
            await sending(office)("a@example.org", "s", text="t")


async def test_a_message_that_is_taken_for_some_says_for_whom_not():
    async with post_office() as office:
        office.unknown = {"b@example.org": "550 no such user"}
        sent = await sending(office)(["a@example.org", "b@example.org"], "s", text="t")
    assert (sent.recipients, sent.refused) == (["a@example.org"], {"b@example.org": "550 no such user"})


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({"a@example.org": "550 no such user", "b@example.org": "551 gone"}, EmailRefusedError),
        ({"a@example.org": "550 no such user", "b@example.org": "450 busy"}, EmailError),
    ],
)
async def test_a_message_that_is_taken_for_nobody_is_an_error(answers, error):
    async with post_office() as office:
        office.unknown = answers
        with pytest.raises(error, match=r"took the message for nobody: a@example.org: 550 no such user; b@example.org"):
            await sending(office)(["a@example.org", "b@example.org"], "s", text="t")


async def test_a_server_that_is_not_there_is_an_error_worth_another_attempt():
    async with post_office() as office:
        pass
    with pytest.raises(EmailError, match="^localhost: "):
        await sending(office)("a@example.org", "s", text="t")


async def test_a_login_is_made_and_a_wrong_one_is_final():
    async with post_office() as office:
        await sending(office, user="shop", password="right")("a@example.org", "s", text="t")
        with pytest.raises(EmailRefusedError, match="answered 535") as caught:
            await sending(office, user="shop", password="wrong")("a@example.org", "s", text="t")
    assert office.logins[0] == ("shop", "right")
    assert "wrong" not in str(caught.value)


async def test_mail_goes_over_tls_from_the_start_or_after_a_plain_hello():
    async with post_office(tls=server_context()) as office:
        await sending(office, tls="tls", context=client_context())("a@example.org", "s", text="t")
        assert len(office.mails) == 1
    async with post_office(starttls=server_context()) as office:
        await sending(office, tls="starttls", context=client_context())("a@example.org", "s", text="t")
        assert len(office.mails) == 1


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_a_certificate_that_is_not_trusted_is_refused(tls):
    context = server_context()
    async with post_office(tls=context) if tls == "tls" else post_office(starttls=context) as office:
        with pytest.raises(EmailError, match="certificate verify failed"):
            await sending(office, tls=tls)("a@example.org", "s", text="t")
        assert office.mails == []


async def test_a_server_without_starttls_gets_nothing():
    async with post_office() as office:
        with pytest.raises((EmailRefusedError, EmailError), match=r"(?i)starttls"):
            await sending(office, tls="starttls")("a@example.org", "s", text="t")
        assert office.mails == []


async def test_a_message_that_comes_twice_has_one_id():
    async with post_office() as office:
        task = sending(office)
        app = Perdure("memory://")
        app.add(task)
        office.says = ["451 busy", "421 closing"]
        async with testing.engine(app) as engine:
            sent = [await engine.result(await app.start(task, "a@example.org", "s", "t")) for _ in range(2)]
    assert office.refused == [sent[0].message_id] * 2
    assert [mail.message["Message-ID"] for mail in office.mails] == [each.message_id for each in sent]
    assert len({each.message_id for each in sent}) == 2


async def test_a_refusal_ends_the_run_at_once():
    async with post_office() as office:
        task = sending(office)
        app = Perdure("memory://")
        app.add(task)
        office.says = ["554 spam"] * 9
        async with testing.engine(app) as engine:
            with pytest.raises(RunFailedError) as caught:
                await engine.result(await app.start(task, "a@example.org", "s", "t"))
    assert isinstance(caught.value.__cause__, EmailRefusedError)
    assert len(office.refused) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tls": "ssl"}, "server.tls: 'ssl' must be 'starttls', 'tls' or 'none'"),
        ({"user": "shop"}, "server.user, server.password: give both, or none"),
        ({"timeout": 0}, "server.timeout: 0 seconds are too few"),
        ({"timeout": "soon"}, "server.timeout: 'soon'"),
        ({"sender": "shop"}, "server.sender: 'shop' is no address"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(options, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        MailServer("localhost", **options)


def test_a_server_does_not_show_its_password():
    assert repr(MailServer("mail.example.org", user="u", password="secret")) == (
        "MailServer('mail.example.org', 587, tls='starttls')"
    )
