"""Encrypt in one process and in children that it forks, for the test of ivs.

    python -m tests.encryption.core.forking CHILDREN EACH

Writes the 12 bytes of every iv to the standard output: ``EACH`` of every child, and as many of the
parent, which goes on encrypting in threads while it forks.
"""

import os
import sys
import threading
from binascii import a2b_base64

from encryption.core.keyring import Keyring
from tests.encryption.core.samples import master


def iv_of(token: str) -> bytes:
    """The iv of a v1 or v2 token."""
    if token.startswith("v2:"):
        letters = token[12:].replace("-", "+").replace("_", "/")
        return a2b_base64(letters + "=" * (-len(letters) % 4))[16:28]
    return a2b_base64(token)[:12]


def ivs(rings: list[Keyring], count: int) -> bytes:
    """Encrypt ``count`` values under both formats in turn."""
    return b"".join(iv_of(rings[n % 2].encrypt("x", str(n % 20))) for n in range(count))


def child(rings: list[Keyring], count: int, pipe: int) -> None:
    """What a child does; it never returns."""
    status = 1
    try:
        found = ivs(rings, count)
        while found:
            found = found[os.write(pipe, found) :]
        status = 0
    finally:
        os._exit(status)


def main(children: int, each: int) -> None:
    """Fork, and pass on what each process made."""
    rings = [Keyring(master()), Keyring(master(), write_format="v1")]
    found = [ivs(rings, 100)]  # the state that the children inherit has been used
    threads = [
        threading.Thread(target=lambda: found.append(ivs(rings, (each - 100) // 2)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    pids, readers = [], []
    for _ in range(children):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(rings, each, writer)
        os.close(writer)
        pids.append(pid)
        readers.append(reader)
    for reader in readers:
        while block := os.read(reader, 1 << 16):
            sys.stdout.buffer.write(block)
    for thread in threads:
        thread.join()
    sys.stdout.buffer.write(b"".join(found))
    sys.stdout.flush()
    sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in pids))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
