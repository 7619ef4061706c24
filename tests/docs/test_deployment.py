"""docs/deployment.md is walked through as it is written, under other names."""

import getpass
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dashtray.server import free_port
from tests.docs.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
BLOCKS = [block.text for block in blocks("deployment.md")]

#: What is taken away again, however it ends.
AT_EXIT = r"""
finish() {
    set +e
    kill $(jobs -p) 2>/dev/null
    for unit in "$STATE"/*.pid; do systemctl stop "$(basename "$unit" .pid)"; done
    tail "$STATE"/*.log
    wait
    # runuser ends a little before the last of its children.
    for _ in $(seq 20); do userdel "$ACCOUNT" 2>/dev/null && break; sleep 1; done
    dropdb --force "$DATABASE"
    psql --quiet --dbname postgres --command "DROP ROLE \"$DATABASE\""
}
trap finish EXIT
"""
#: A release with one file more, for the upgrade.
RELEASE = r"""
git clone --quiet "$SOURCE" "$STATE/release"
echo "the next release" > "$STATE/release/dashtray/static/dashtray/release.txt"
git -C "$STATE/release" add --all
git -C "$STATE/release" -c user.name=test -c user.email= commit --quiet --message "The next release"
git -C "$STATE/release" tag v0.2.0
git -C "$STATE/release" push --quiet origin v0.2.0
released() {
    curl --silent -H "Host: $HOST" -H "X-Forwarded-Proto: https" "http://127.0.0.1:$PORT/static/dashtray/release.txt"
}
released | grep --quiet "the next release" && exit 1
MAIN=$(cat "$STATE/dashtray.pid") WORKER=$(cat "$STATE/dashtray-worker.pid")
"""
#: What a person would look at.
LOOK = r"""
test "$MAIN" = "$(cat "$STATE/dashtray.pid")"
test "$WORKER" != "$(cat "$STATE/dashtray-worker.pid")"
export -f released
timeout 60 bash -c 'until released | grep "the next release"; do sleep 0.2; done'
answers='until deploy/run celery --app dashtray inspect ping --timeout 5; do sleep 1; done'
runuser -u "$ACCOUNT" -- timeout 120 sh -c "$answers"
timeout 60 sh -c 'until ls "$STATE"/dashtray/celerybeat*; do sleep 0.2; done'
for unit in dashtray dashtray-worker dashtray-beat; do
    test -L "$UNITS/multi-user.target.wants/$unit.service"
done
test "$(stat --format '%a %U' "$KEYS/master-key")" = "400 $ACCOUNT"
test "$(stat --format '%a %U %G' "$ENVIRONMENT")" = "640 root $ACCOUNT"
echo "walked through"
"""


@pytest.fixture
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    name = f"dashtray{secrets.token_hex(3)}"
    # pytest's own folders can be entered by their owner alone.
    base = Path("/var/tmp") / name
    base.mkdir(mode=0o755)
    for folder in ("root/etc/systemd/system", "state", "bin"):
        (base / folder).mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("systemctl.py"), base / "bin" / "systemctl")
    (base / "bin" / "systemctl").chmod(0o755)
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, base / "source.git"], check=True)
    yield {
        "SITE": f"{base}/site",
        "KEYS": f"{base}/keys",
        "ENVIRONMENT": f"{base}/keys/env",
        "ACCOUNT": name,
        "DATABASE": name,
        "SOURCE": f"{base}/source.git",
        "UNITS": f"{base}/root/etc/systemd/system",
        "PORT": str(free_port()),
    }
    shutil.rmtree(base)


@pytest.mark.services
@pytest.mark.skipif(getpass.getuser() != "root", reason="makes an account")
def test_the_guide_is_walked_through(names: dict[str, str]) -> None:
    first = BLOCKS[0]
    for name, value in names.items():
        first, count = re.subn(rf"\b{name}=\S+", f"{name}={value}", first)
        assert count == 1, name
    upgrade = next(at for at, block in enumerate(BLOCKS) if block.startswith("RELEASE="))
    steps = [first, AT_EXIT, *BLOCKS[1:upgrade], RELEASE, *BLOCKS[upgrade:], LOOK]
    script = "\n".join(["set -euo pipefail", *steps])
    clean = {name: value for name, value in os.environ.items() if "KEY" not in name}
    base = Path(names["SITE"]).parent
    clean |= {"PATH": f"{base}/bin:{clean['PATH']}", "STATE": f"{base}/state"}
    clean.pop("DATABASE_URL", None)
    clean.pop("DJANGO_SETTINGS_MODULE", None)
    done = subprocess.run(
        ["bash", "-c", script], env=clean, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert '{"status": "ready"}' in done.stdout
    assert "encryption_rows_counted 1.0" in done.stdout
    assert "pong" in done.stdout
    assert "walked through" in done.stdout


def test_every_check_and_figure_is_named() -> None:
    source = (ROOT / "encryption" / "metrics.py").read_text(encoding="utf-8")
    figures = set(re.findall(r'"(encryption_[a-z_]+)"', source))
    assert len(figures) > 6
    assert {name for name in figures if name not in PAGE} == set()
    checks = (ROOT / "dashtray" / "checks.py").read_text(encoding="utf-8")
    pages = PAGE + (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for name in re.findall(r"dashtray\.W\d{3}", checks):
        assert f"`{name}`" in pages


@pytest.mark.parametrize(
    "unit", ["dashtray.service", "dashtray-worker.service", "dashtray-beat.service"]
)
def test_the_units_name_what_is_there(unit: str) -> None:
    text = (ROOT / "deploy" / unit).read_text(encoding="utf-8")
    assert "User=dashtray\n" in text
    (command,) = re.findall(r"^ExecStart=/opt/dashtray/\.venv/bin/(\w+) ", text, re.MULTILINE)
    assert command in {"gunicorn", "celery"}
    for path in re.findall(r"(?<=--config )\S+", text):
        assert (ROOT / path).exists()
