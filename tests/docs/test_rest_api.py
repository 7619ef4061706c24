"""The requests of docs/rest-api.md are sent as they are written, with curl, to a running server."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from tests.docs.pages import blocks
from tests.projects.factories import ProjectFactory

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rest-api.md").read_text(encoding="utf-8")
REQUESTS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
]
#: What the page shows of the first, the second, the first of an AI key, and the sixth reply.
SHOWN = [json.loads(block.text) for block in blocks("rest-api.md", "json")]
STATUSES = [200, 201, 200, 200, 200, 400, 400, 400, 400, 200, 200, 200, 204, 201, 200, 204]


def keys(body: Any) -> set[str]:
    """The names in a reply, of objects inside it too."""
    if isinstance(body, list):
        return {name for part in body[:1] for name in keys(part)}
    if not isinstance(body, dict):
        return set()
    return set(body).union(*map(keys, body.values()))


def send(line: str, variables: dict[str, str]) -> tuple[int, Any]:
    """Run one line in a shell; the status and the parsed body of the reply."""
    done = subprocess.run(
        ["bash", "-euc", f"{line} -w '\\n%{{http_code}}'"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body) if body else None


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="no curl")
@pytest.mark.django_db(transaction=True)
def test_the_requests_are_answered_as_told(live_server: Any, capsys: Any) -> None:
    project = ProjectFactory.create()
    (command,) = re.findall(r"^\.venv/bin/python manage\.py (create_api_key .*)$", PAGE, re.M)
    arguments = [word.replace("$PROJECT", str(project.pk)) for word in shlex.split(command)]
    call_command(*arguments)
    person = Client()
    person.force_login(project.owner)
    variables = {
        "API": f"{live_server.url}/api/v1",
        "KEY": capsys.readouterr().out.strip(),
        "PROJECT": str(project.pk),
        "CONNECTION": "",
        "SESSION": person.cookies["sessionid"].value,
        "CSRF": "c" * 32,  # what counts is that the cookie and the header are the same
    }
    replies = []
    for line in REQUESTS:
        replies.append(send(line, variables))
        if replies[-1][0] == 201 and not variables["CONNECTION"]:
            variables["CONNECTION"] = replies[-1][1]["id"]

    assert [status for status, _ in replies] == STATUSES
    pictured = (replies[0], replies[1], replies[13], replies[5])
    for shown, (_, body) in zip(SHOWN, pictured, strict=True):
        assert keys(shown) <= keys(body)
    assert SHOWN[3] == replies[5][1]
    assert SHOWN[2].keys() == replies[13][1].keys()
    assert SHOWN[2]["warnings"] == replies[13][1]["warnings"]
    created, listed, read, changed = (body for _, body in replies[1:5])
    assert created["credential_fields"]["bearer_token"] == {"set": True}
    assert [one["id"] for one in listed["results"]] == [read["id"]] == [created["id"]]
    assert changed["name"] == "Main cluster"
    codes = [body["errors"][0]["code"] for _, body in replies[5:9]]
    assert codes == [
        "blank",
        "mask",
        "credentials_required_for_new_destination",
        "unknown_field",
    ]
    assert [body["code"] for _, body in replies[9:11]] == ["unreachable", "unreachable"]
    said = json.dumps([body for _, body in replies])
    assert "made-up-token" not in said
    assert "another-token" not in said
    assert "sk-made-up" not in said
