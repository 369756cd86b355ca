from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path


def test_keys_are_made_listed_rotated_and_revoked(shell):
    made = shell(
        "keys", "create", "ci", "--role", "viewer", "--expires", "10 days", "--reason", "builds", "--json"
    ).json
    assert made["token"].startswith("pdk_")
    assert made["role"] == "viewer"
    assert made["namespaces"] == ["default"]
    (listed,) = shell("keys", "list", "--json").json
    assert (listed["id"], listed["state"], listed["used_at"]) == (made["id"], "active", None)
    assert made["token"] not in shell("keys", "list").out
    new = shell("keys", "rotate", made["token"], "--overlap", "1 hour", "--json").json
    assert new["replaces"] == made["id"]
    assert new["token"] != made["token"]
    revoked = shell("keys", "revoke", made["token"])
    assert revoked.code == 0
    assert made["id"] in revoked.out
    assert made["token"] not in revoked.out + revoked.err
    states = {key["id"]: key["state"] for key in shell("keys", "list", "--json").json}
    assert states == {made["id"]: "revoked", new["id"]: "active"}


def test_a_key_is_shown_once(shell):
    said = shell("keys", "create", "ci")
    assert said.code == 0
    assert len(said.out.split()) == 1
    assert "not shown again" in said.err


def test_a_key_is_printed_as_qstash_takes_it(shell):
    namespaces = ("--namespace", "a-namespace-with-a-long-name", "--namespace", "b")
    said = shell("keys", "create", "shop", "--qstash", *namespaces)
    (token,) = said.out.split()
    held = json.loads(base64.b64decode(token))
    assert held["UserID"] == "a-namespace-with-a-long-name"
    assert held["Password"].startswith("pdk_")
    made = shell("keys", "create", "all", "--qstash", "--namespace", "*", "--json").json
    assert json.loads(base64.b64decode(made["token"]))["UserID"] == "default"


def test_what_is_wrong_is_said(shell):
    assert shell("keys", "create", "ci", "--role", "root").code == 2
    assert "role" in shell("keys", "create", "ci", "--role", "root").err
    assert shell("keys", "create", "ci", "--expires", "soon").code == 2
    shell("keys", "create", "ci")
    for verb in ("revoke", "rotate"):
        said = shell("keys", verb, "nothing")
        assert said.code == 3
        assert "there is no key 'nothing'" in said.err
        said = shell("keys", verb, f"pdk_{'0' * 20}_{'7' * 48}")
        assert said.code == 3
        assert "7" * 48 not in said.out + said.err


def test_what_is_done_with_keys_is_in_the_log_and_it_holds(shell):
    made = shell("keys", "create", "ci", "--reason", "builds", "--json").json
    shell("keys", "revoke", made["id"], "--reason", "leaked")
    entries = shell("audit", "list", "--json").json
    assert [(entry["action"], entry["target"], entry["reason"]) for entry in entries] == [
        ("keys.revoke", made["id"], "leaked"),
        ("keys.create", "ci", "builds"),
    ]
    assert "keys.revoke" in shell("audit", "list").out
    verdict = shell("audit", "verify", "--json")
    assert verdict.code == 0
    assert verdict.json["entries"] == 2
    head = f"2:{verdict.json['head']}"
    assert shell("audit", "verify", "--head", head).code == 0
    assert shell("audit", "verify", "--head", f"2:{'0' * 64}").code == 1
    assert shell("audit", "verify", "--head", f"3:{'0' * 64}").code == 1
    assert shell("audit", "verify", "--head", "nonsense").code == 2


def test_a_log_that_was_changed_is_found(shell, url):
    import apsw

    for name in ("a", "b", "c"):
        shell("keys", "create", name)
    path = url.removeprefix("sqlite:///").partition("?")[0]
    with apsw.Connection(path) as connection:
        connection.execute('UPDATE documents SET text = replace(text, \'"target":"b"\', \'"target":"x"\')')
        assert connection.changes()
    connection.close()
    said = shell("audit", "verify")
    assert said.code == 1
    assert "entry 2:" in said.out
    assert shell("audit", "verify", "--json").json["broken"] == 2


def test_another_namespace_has_a_log_of_its_own(shell):
    shell("keys", "create", "ci")
    said = shell("audit", "verify", "--namespace", "acme")
    assert said.code == 4
    assert "nobody has used namespace acme" in said.err


def test_no_secret_stands_in_a_command_line_or_its_errors(shell, tmp_path):
    """What a store's URL holds is taken from the environment, and never said."""
    command = [sys.executable, "-c", "from perdure.cli.main import app; app()", "keys", "list", "--debug"]
    environment = {
        "PERDURE_STORE": "postgresql://ada:hunter2@127.0.0.1:1/shop?patience=0.1",
        "PATH": "/usr/bin",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=50, cwd=Path(__file__).parent, check=False
    )
    assert done.returncode == 4
    assert "hunter2" not in done.stdout + done.stderr
