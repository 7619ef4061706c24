import datetime
import gzip
import ipaddress
import socket
import ssl
import threading
import time
import tracemalloc
import zlib

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from werkzeug import Response

from connections import outgoing
from connections.addresses import is_allowed_host, is_public
from connections.integrations.base import IntegrationError
from connections.integrations.fields import SecretShapedError, url as url_field
from connections.integrations.http import Api
from tests.connections.factories import CANARY

#: Each of these leads to the server of the test, to something else that is not public, or nowhere.
#: {port} is the server's.
TRICKS = {
    "loopback": "http://127.0.0.1:{port}/",
    "loopback by name": "http://localhost:{port}/",
    "loopback in capitals": "HTTP://LOCALHOST:{port}/",
    "loopback by name with a dot": "http://localhost.:{port}/",
    "any loopback": "http://127.8.8.8:{port}/",
    "short IPv4": "http://127.1:{port}/",
    "decimal IPv4": "http://2130706433:{port}/",
    "hexadecimal IPv4": "http://0x7f000001:{port}/",
    "hexadecimal parts": "http://0x7f.0x0.0x0.0x1:{port}/",
    "octal parts": "http://0177.0.0.1:{port}/",
    "octal IPv4": "http://017700000001:{port}/",
    "trailing dot": "http://127.0.0.1.:{port}/",
    "this host": "http://0.0.0.0:{port}/",
    "this host as a number": "http://0:{port}/",
    "full-width digits": "http://\uff11\uff12\uff17.0.0.1:{port}/",
    "circled digits": "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:{port}/",
    "ideographic full stops": "http://127\u30020\u30020\u30021:{port}/",
    "half-width full stops": "http://127\uff610\uff610\uff611:{port}/",
    "soft hyphen": "http://127.0\u00ad.0.1:{port}/",
    "percent-encoded host": "http://%31%32%37.0.0.1:{port}/",
    "percent-encoded dots": "http://127%2e0%2e0%2e1:{port}/",
    "percent-encoded slash": "http://127.0.0.1%2f@example.com:{port}/",
    "IPv6 loopback": "http://[::1]:{port}/",
    "IPv6 loopback in full": "http://[0:0:0:0:0:0:0:1]:{port}/",
    "IPv6 unspecified": "http://[::]:{port}/",
    "mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "mapped in hexadecimal": "http://[::ffff:7f00:1]:{port}/",
    "mapped metadata": "http://[::ffff:a9fe:a9fe]/",
    "compatible": "http://[::127.0.0.1]:{port}/",
    "NAT64": "http://[64:ff9b::7f00:1]:{port}/",
    "local NAT64": "http://[64:ff9b:1::7f00:1]:{port}/",
    "6to4": "http://[2002:7f00:1::1]:{port}/",
    "6to4 of a private network": "http://[2002:a00:1::1]/",
    "NAT64 of the metadata": "http://[64:ff9b::169.254.169.254]/",
    "compatible in hexadecimal": "http://[::7f00:1]:{port}/",
    "translated": "http://[::ffff:0:127.0.0.1]:{port}/",
    "ISATAP": "http://[fe80::5efe:127.0.0.1]:{port}/",
    "discard": "http://[100::1]/",
    "Teredo": "http://[2001:0:7f00:1::1]:{port}/",
    "IPv6 link-local": "http://[fe80::1]/",
    "IPv6 with a zone": "http://[fe80::1%25lo]:{port}/",
    "IPv6 private": "http://[fd12:3456::1]/",
    "IPv6 metadata": "http://[fd00:ec2::254]/",
    "IPv6 site-local": "http://[fec0::1]/",
    "IPv6 multicast": "http://[ff02::1]/",
    "private 10": "http://10.0.0.1/",
    "carriers": "http://100.64.0.1/",
    "link-local": "http://169.254.0.1/",
    "this network": "http://0.1.2.3/",
    "overflowing octal": "http://0000000000177.0.0.1:{port}/",
    "overflowing decimal": "http://4294967297/",
    "private 172": "http://172.31.255.1/",
    "private 192": "http://192.168.1.1/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata as a number": "http://2852039166/",
    "metadata in octal": "http://0251.0376.0251.0376/",
    "metadata of Alibaba": "http://100.100.100.200/",
    "metadata of Azure": "http://168.63.129.16/",
    "metadata of Oracle": "http://192.0.0.192/",
    "broadcast": "http://255.255.255.255/",
    "multicast": "http://224.0.0.1/",
    "credentials": "http://user:pass@127.0.0.1:{port}/",
    "host in the user name": "http://example.com@127.0.0.1:{port}/",
    "empty user name": "http://@127.0.0.1:{port}/",
    "two user names": "http://example.com@example.com@127.0.0.1:{port}/",
    "host in the fragment": "http://127.0.0.1:{port}#@example.com/",
    "host in the query": "http://127.0.0.1:{port}?@example.com/",
    "local domain": "http://localhost.localdomain:{port}/",
    "websocket": "ws://127.0.0.1:{port}/",
    "unix socket": "http+unix://%2Frun%2Fdocker.sock/info",
    "backslash": "http://127.0.0.1:{port}\\@example.com/",
    "tab": "http://127.0.0.1\t:{port}/",
    "line break": "http://127.0.0.1:{port}/\r\nHost: example.com",
    "file": "file:///etc/passwd",
    "gopher": "gopher://127.0.0.1:{port}/_x",
    "no scheme": "//127.0.0.1:{port}/",
    "no slashes": "http:127.0.0.1:{port}",
    "port 0": "http://127.0.0.1:0/",
    "no host": "http://:{port}/",
}


@pytest.fixture
def resolves(monkeypatch):
    """Make names resolve to what the test says, one list of addresses after another."""
    answers: dict[str, list[list[str]]] = {}
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        if host not in answers:
            return real(host, port, *args, **kwargs)
        asked.append(host)
        found = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        return [info for address in found for info in real(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def resolves(host, *found):
        answers[host] = [list(addresses) for addresses in found]
        return asked

    return resolves


def get(url):
    with outgoing.client(headers={"X-Secret": CANARY}) as client:
        return client.get(url)


def test_there_are_at_least_forty_tricks():
    assert len(TRICKS) >= 40


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_reaches_what_is_not_public(httpserver, trick):
    httpserver.expect_request("/").respond_with_data("reached")
    url = TRICKS[trick].format(port=httpserver.port)
    with pytest.raises((outgoing.OutgoingError, httpx.InvalidURL, httpx.UnsupportedProtocol)):
        get(url)
    with pytest.raises(IntegrationError), Api(url) as api:
        api.get("")
    assert httpserver.log == []


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_an_ordinary_failure_of_a_connection(trick):
    with pytest.raises(IntegrationError) as error, Api(TRICKS[trick].format(port=9)) as api:
        api.get("")
    assert error.value.code in {"destination_refused", "unreachable", "unexpected_reply"}


def test_a_name_with_one_private_address_is_refused(httpserver, resolves):
    resolves("mixed.example", ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(outgoing.RefusedDestinationError):
        get(f"http://mixed.example:{httpserver.port}/")


def test_the_checked_address_is_the_one_that_is_connected_to(httpserver, resolves, monkeypatch):
    """DNS rebinding: the name is public when it is checked, and private a moment later."""
    asked = resolves("rebind.example", ["93.184.216.34"], ["127.0.0.1"])
    connected = []

    def connect(self, address, *args):
        connected.append(address)
        raise outgoing.UnreachableError("no network in this test")

    monkeypatch.setattr(outgoing._Backend, "_connect", connect)
    with pytest.raises(outgoing.UnreachableError):
        get(f"http://rebind.example:{httpserver.port}/")
    assert connected == ["93.184.216.34"]
    assert asked == ["rebind.example"]


def test_a_name_is_checked_again_for_a_new_connection(httpserver, resolves):
    asked = resolves("rebind.example", ["127.0.0.1"])
    for _ in range(2):
        with pytest.raises(outgoing.RefusedDestinationError):
            get(f"http://rebind.example:{httpserver.port}/")
    assert len(asked) == 2


def test_a_redirect_to_another_host_is_not_followed(httpserver, allow):
    allow(f"localhost:{httpserver.port}")
    target = f"http://127.0.0.1:{httpserver.port}/inside"
    httpserver.expect_request("/start").respond_with_response(
        Response(status=302, headers={"Location": target})
    )
    httpserver.expect_request("/inside").respond_with_data("reached")
    with (
        pytest.raises(IntegrationError) as error,
        Api(f"http://localhost:{httpserver.port}", headers={"X-Secret": CANARY}) as api,
    ):
        api.get("start")
    assert error.value.code == "redirected"
    assert [request.path for request, _ in httpserver.log] == ["/start"]


#: Where a server that may be reached, on port {start}, sends us on to; {port} is another one's.
LOCATIONS = {
    "another port": "http://localhost:{port}/inside",
    "the standard port": "http://localhost/inside",
    "another scheme": "https://localhost:{start}/inside",
    "no scheme": "//127.0.0.1:{port}/inside",
    "backslashes": "\\\\127.0.0.1:{port}\\inside",
    "a slash and a backslash": "/\\127.0.0.1:{port}/inside",
    "a user name": "http://localhost:{start}@127.0.0.1:{port}/inside",
    "own host as a user name": "http://localhost@localhost:{port}/inside",
    "a tab": "/\t/127.0.0.1:{port}/inside",
    "another spelling": "http://127.1:{port}/inside",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "file": "file:///etc/passwd",
    "javascript": "javascript:alert(1)",
    "no URL": "http://[",
    "nothing": "",
}


def redirect(listener, location):
    """Answer one request with a redirect, whatever is in it; more requests are not accepted."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(10_000)
        head = "HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nConnection: close\r\n"
        connection.sendall(f"{head}Location: {location}\r\n\r\n".encode())
    listener.close()


@pytest.mark.parametrize("location", LOCATIONS)
def test_no_redirect_leads_to_another_place(httpserver, allow, location):
    allow("localhost")
    httpserver.expect_request("/inside").respond_with_data("reached")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        start = listener.getsockname()[1]
        target = LOCATIONS[location].format(port=httpserver.port, start=start)
        thread = threading.Thread(target=redirect, args=(listener, target))
        thread.start()
        headers = {"Authorization": CANARY}
        with (
            pytest.raises(IntegrationError) as error,
            Api(f"http://localhost:{start}", headers=headers) as api,
        ):
            api.get("start")
        thread.join()
    # Nothing is a redirect to the page itself, which is not there any more.
    codes = {"redirected", "destination_refused", "unexpected_reply"}
    assert error.value.code in codes | ({"unreachable"} if location == "nothing" else set())
    assert httpserver.log == []


@pytest.mark.parametrize("location", LOCATIONS)
def test_no_link_to_a_next_page_leads_to_another_place(httpserver, allow, location):
    """A service names whole URLs in its replies, too."""
    allow("localhost")
    httpserver.expect_request("/inside").respond_with_data("reached")
    target = LOCATIONS[location].format(port=httpserver.port, start=9)
    with pytest.raises(IntegrationError), Api("http://localhost:9") as api:
        api.get(target)
    assert httpserver.log == []


@pytest.mark.parametrize("location", ["/inside", "inside"])
def test_a_redirect_on_the_same_host_is_followed(httpserver, allow, location):
    allow("localhost")
    httpserver.expect_request("/start").respond_with_response(
        Response(status=301, headers={"Location": location})
    )
    httpserver.expect_request("/inside").respond_with_data("reached")
    with Api(f"http://localhost:{httpserver.port}") as api:
        assert api.get("start").text == "reached"
    with (
        pytest.raises(IntegrationError),
        Api(f"http://localhost:{httpserver.port}", redirects=0) as api,
    ):
        api.get("start")


def test_a_redirect_in_a_circle_ends(httpserver, allow):
    allow("localhost")
    httpserver.expect_request("/").respond_with_response(
        Response(status=302, headers={"Location": "/"})
    )
    with pytest.raises(IntegrationError), Api(f"http://localhost:{httpserver.port}") as api:
        api.get("")
    assert len(httpserver.log) == 4


def test_an_allowed_host_is_reached_and_another_port_of_it_is_not(httpserver, allow):
    httpserver.expect_request("/").respond_with_data("reached")
    url = f"http://localhost:{httpserver.port}/"
    allow(f"localhost:{httpserver.port}")
    assert get(url).text == "reached"
    allow(f"localhost:{httpserver.port + 1}")
    with pytest.raises(outgoing.RefusedDestinationError):
        get(url)


@pytest.mark.parametrize(
    ("host", "entry", "expected"),
    [
        ("a.example", "a.example", True),
        ("A.Example.", "a.example", True),
        ("a.example", "a.example:80", True),
        ("a.example", "a.example:81", False),
        ("a.example", "example", False),
        ("fd00::1", "[fd00::1]:80", True),
        ("fd00::1", "fd00::1", True),
    ],
)
def test_the_list_of_allowed_hosts(host, entry, expected):
    assert is_allowed_host(host, 80, (entry,)) is expected


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "2001:4860::1"],
)
def test_public_addresses_are_allowed(address):
    assert is_public(ipaddress.ip_address(address))


def test_no_proxy_of_the_environment_is_used(httpserver, allow, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    allow("localhost")
    httpserver.expect_request("/").respond_with_data("reached")
    assert get(f"http://localhost:{httpserver.port}/").text == "reached"


def test_nothing_else_of_the_environment_is_used(httpserver, allow, monkeypatch, tmp_path):
    """No password of a .netrc, and no other authorities."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login me password from-netrc")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    allow("localhost")
    httpserver.expect_request("/").respond_with_data("reached")
    assert get(f"http://localhost:{httpserver.port}/").text == "reached"
    [(request, _)] = httpserver.log
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP", "identity, gzip"])
def test_a_small_reply_does_not_become_a_large_one(httpserver, allow, coding):
    """We ask for no compression. Who compresses all the same sends what we cannot measure."""
    allow("localhost")
    packed = (zlib if coding == "deflate" else gzip).compress(b"0" * 2**26)
    assert len(packed) < outgoing.LARGEST_REPLY / 50
    httpserver.expect_request("/").respond_with_response(
        Response(packed, headers={"Content-Encoding": coding})
    )
    tracemalloc.start()
    with pytest.raises(outgoing.OutgoingError):
        get(f"http://localhost:{httpserver.port}/")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25


def test_a_large_reply_is_cut_off(httpserver, allow, monkeypatch):
    monkeypatch.setattr(outgoing, "LARGEST_REPLY", 1000)
    allow("localhost")
    httpserver.expect_request("/").respond_with_data("x" * 1001)
    with pytest.raises(outgoing.OversizedReplyError):
        get(f"http://localhost:{httpserver.port}/")


def drip(listener, data, hung_up):
    connection, _ = listener.accept()
    with connection:
        try:
            connection.recv(1000)
            for _ in range(1200):
                connection.sendall(data)
                time.sleep(0.05)
        except OSError:
            hung_up.set()


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK\r\nX-A: ", b"H"], ids=["endless headers", "endless line"]
)
def test_a_reply_that_drips_ends_at_the_deadline(allow, data):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        hung_up = threading.Event()
        thread = threading.Thread(target=drip, args=(listener, data, hung_up))
        thread.start()
        allow("localhost", OPERATION_TIMEOUT=3, REQUEST_TIMEOUT=5)
        with pytest.raises(outgoing.OutgoingError):
            get(f"http://localhost:{listener.getsockname()[1]}/")
        thread.join()
        assert hung_up.is_set()  # long before the server was at the end of its minute


def test_what_cannot_be_sent_is_not_quoted():
    client = httpx.Client(
        transport=outgoing.GuardedTransport(5), headers={"X-Secret": f"{CANARY}\r\nX: y"}
    )
    with client, pytest.raises(outgoing.OutgoingError) as error:
        client.get("http://93.184.216.34:9/")
    seen: BaseException | None = error.value
    while seen is not None:
        assert CANARY not in str(seen)
        seen = None if seen.__suppress_context__ else seen.__context__


def test_a_header_that_cannot_be_sent_is_an_error_of_the_connection():
    for value in (f"{CANARY}\nX: y", f"{CANARY}\u20ac", f"{CANARY}\0"):
        with pytest.raises(IntegrationError) as error:
            Api("http://localhost", headers={"Authorization": value})
        assert error.value.code == "malformed_credential"
        assert CANARY not in str(error.value)


NO_CONFIGURATION = [
    "credentials",
    "host in the user name",
    "host in the fragment",
    "backslash",
    "file",
    "gopher",
    "no scheme",
    "no slashes",
    "port 0",
    "no host",
]


@pytest.mark.parametrize("trick", NO_CONFIGURATION)
def test_what_is_no_plain_url_is_no_configuration(trick):
    with pytest.raises(ValueError, match=r"\w"):
        url_field(TRICKS[trick].format(port=80))


def test_a_password_in_a_url_is_told_as_a_secret():
    with pytest.raises(SecretShapedError):
        url_field(f"https://user:{CANARY}@host.example/")


@pytest.fixture
def certificate(tmp_path):
    """A certificate for service.example, and a context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "service.example")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("service.example")]), False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


def serve_tls(listener, file):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    connection, _ = listener.accept()
    try:
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1000)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nreached")
    except OSError:
        pass  # the client does not trust the name


@pytest.mark.parametrize(("name", "reached"), [("service.example", True), ("other.example", False)])
def test_tls_is_checked_against_the_name(allow, resolves, certificate, name, reached):
    resolves(name, ["127.0.0.1"])
    allow(name)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_tls, args=(listener, certificate))
        thread.start()
        trusting = ssl.create_default_context(cafile=str(certificate))
        transport = outgoing.GuardedTransport(30, trusting)
        url = f"https://{name}:{listener.getsockname()[1]}/"
        with httpx.Client(transport=transport) as client:
            if reached:
                assert client.get(url).text == "reached"
            else:
                with pytest.raises(outgoing.UnreachableError):
                    client.get(url)
        thread.join()
