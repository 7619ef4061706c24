"""No iv comes twice, whatever is forked when.

AES-GCM breaks where one key meets one iv twice (NIST SP 800-38D, section 8). IVS is how many are
counted, over five processes.
"""

import os
import subprocess
import sys

from encryption.core.keyring import Keyring
from tests.encryption.core.forking import iv_of
from tests.encryption.core.samples import V1_VECTORS, V2_VECTORS, master
from tests.processes import CHECKOUT

IVS = int(os.environ.get("IVS", "100000"))
CHILDREN = 4


def test_no_iv_comes_twice_in_forked_processes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.encryption.core.forking", str(CHILDREN), str(IVS // 5)],
        cwd=CHECKOUT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = [done.stdout[place : place + 12] for place in range(0, len(done.stdout), 12)]
    assert len(found) == IVS
    assert len(set(found)) == IVS


def test_the_iv_is_where_this_test_looks_for_it() -> None:
    assert iv_of(V1_VECTORS[0].stored).hex() == V1_VECTORS[0].iv
    assert iv_of(V2_VECTORS[0].token).hex() == V2_VECTORS[0].iv


def test_all_bits_of_an_iv_vary() -> None:
    ring = Keyring(master())
    seen = [int.from_bytes(iv_of(ring.encrypt("x", "1"))) for _ in range(100)]
    ones, zeros = 0, 0
    for iv in seen:
        ones |= iv
        zeros |= ~iv
    everything = (1 << 96) - 1
    assert (ones, zeros & everything) == (everything, everything)  # but once in 2 ** 93
