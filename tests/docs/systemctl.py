#!/usr/bin/env python3
"""`systemctl` where systemd is not the first process: it starts the units that were copied.

The units are enabled by the real systemctl, in another root. They are started from their files as
systemd would: under their account, in their directory, with their environment and nothing else, and
a unit of `Type=notify` is there once it has said so. Their sandbox is left out.

    UNITS=.../etc/systemd/system STATE=folder systemctl enable --now NAME...
"""

import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from string import Template

UNITS = Path(os.environ["UNITS"])
STATE = Path(os.environ["STATE"])
ROOT = UNITS.parents[2]
SECONDS = 60


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """The assignments of a unit, or of a file with an environment."""
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            yield name, value


class Unit:
    """A service: its settings, of which none stands twice but ``Environment``."""

    def __init__(self, name: str) -> None:
        self.name = name
        found = list(pairs((UNITS / f"{name}.service").read_text()))
        self.settings = dict(found)
        account = pwd.getpwnam(self.settings["User"])
        own = STATE / self.settings["StateDirectory"]
        own.mkdir(exist_ok=True)
        os.chown(own, account.pw_uid, account.pw_gid)
        self.environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "USER": account.pw_name,
            "HOME": account.pw_dir,
            "STATE_DIRECTORY": str(own),
        }
        for value in (value for key, value in found if key == "Environment"):
            self.environment |= dict(pairs(value.replace(" ", "\n")))
        self.environment |= dict(pairs(Path(self.settings["EnvironmentFile"]).read_text()))

    @property
    def pid(self) -> Path:
        return STATE / f"{self.name}.pid"

    def command(self, setting: str, **more: str) -> list[str]:
        words = self.settings[setting].split()
        return [Template(word).safe_substitute(self.environment | more) for word in words]

    def start(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            notify = STATE / f"{self.name}.notify"
            notify.unlink(missing_ok=True)
            told.bind(str(notify))
            notify.chmod(0o777)
            with (STATE / f"{self.name}.log").open("ab") as log:
                process = subprocess.Popen(
                    self.command("ExecStart"),
                    cwd=self.settings["WorkingDirectory"],
                    env=self.environment | {"NOTIFY_SOCKET": str(notify)},
                    user=self.settings["User"],
                    group=self.settings["Group"],
                    extra_groups=[],
                    umask=int(self.settings["UMask"], 8),
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self.pid.write_text(str(process.pid))
            told.settimeout(SECONDS)
            while self.settings["Type"] == "notify" and b"READY=1" not in told.recv(4096):
                pass

    def reload(self) -> None:
        subprocess.run(self.command("ExecReload", MAINPID=self.pid.read_text()), check=True)

    def stop(self) -> None:
        pid = int(self.pid.read_text())
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + SECONDS
        while self.runs(pid):
            if time.monotonic() > end:
                sys.exit(f"{self.name} does not end")
            time.sleep(0.1)

    @staticmethod
    def runs(pid: int) -> bool:
        """Whether a process is there that has not ended; who has, may wait for its parent."""
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return status.rpartition(") ")[2][0] != "Z"

    def restart(self) -> None:
        self.stop()
        self.start()


def main(verb: str, *arguments: str) -> None:
    if verb == "daemon-reload":
        return
    units = [Unit(name) for name in arguments if name != "--now"]
    if verb == "enable":
        names = [unit.name for unit in units]
        subprocess.run(["/usr/bin/systemctl", f"--root={ROOT}", verb, *names], check=True)
    for unit in units:
        {"enable": unit.start, "reload": unit.reload, "restart": unit.restart, "stop": unit.stop}[
            verb
        ]()


if __name__ == "__main__":
    main(*sys.argv[1:])
