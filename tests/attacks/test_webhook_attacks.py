"""Whoever may set a webhook reaches nothing with it that they could not reach themselves: one test for each way."""

import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from firmware_store.errors import InvalidInputError
from server.outgoing.delivery import HttpDelivery
from server.outgoing.gate import HttpAsking
from server.outgoing.guard import Guard, RefusedAddressError, read_networks
from server.services.gate_webhooks import UnreachableError
from tests.integration.test_rest import assert_problem
from tests.receiver import Receiver, receiving
from tests.servers import Api

LOOPBACK = read_networks("127.0.0.0/8")


class Names(AbstractResolver):
    """A name server in the wrong hands: each answer is the next of these, and the last one stays."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        address = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)]

    async def close(self) -> None:
        return


@pytest.fixture
async def inside() -> AsyncIterator[Receiver]:
    """What must not be reached: it is on this machine."""
    async with receiving() as receiver:
        yield receiver


def port_of(receiver: Receiver) -> str:
    return receiver.url.split(":")[2].split("/")[0]


async def send(guard: Guard, url: str) -> str:
    outcome = await HttpDelivery(guard, try_s=2).send(url, b"{}", {})
    assert outcome.status is None, outcome
    return outcome.why


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "10.0.0.7",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ],
)
async def test_no_address_behind_the_server_is_reached(inside: Receiver, host: str) -> None:
    url = f"http://{host}:{port_of(inside)}/"

    with pytest.raises(InvalidInputError):
        Guard().check_url(url)
    assert "may not be reached" in await send(Guard(), url)
    assert inside.taken == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "017700000001"])
async def test_an_address_in_disguise_is_not_reached(inside: Receiver, host: str) -> None:
    """Decimal, hexadecimal, octal, short: what a system takes for 127.0.0.1."""
    assert await send(Guard(), f"http://{host}:{port_of(inside)}/")
    assert inside.taken == []


@pytest.mark.parametrize("answer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254"])
async def test_a_name_for_such_an_address_is_not_reached(inside: Receiver, answer: str) -> None:
    guard = Guard(resolver=Names(answer))
    url = f"http://hooks.example:{port_of(inside)}/"

    guard.check_url(url)
    assert "may not be reached" in await send(guard, url)
    assert inside.taken == []


async def test_a_name_that_changes_its_mind_is_not_reached(inside: Receiver) -> None:
    """DNS rebinding: public when it is looked at, this machine when it is called. It is asked for once."""
    names = Names("192.88.98.1", "127.0.0.1")
    guard = Guard(resolver=names)
    url = f"http://hooks.example:{port_of(inside)}/"

    first = await send(guard, url)
    second = await send(guard, url)

    assert names.asked == 2
    assert "may not be reached" not in first
    assert "may not be reached" in second
    assert inside.taken == []


async def test_the_address_is_looked_at_once_more_when_the_connection_is_made(inside: Receiver) -> None:
    """Whatever was resolved: the socket is made for one address, and that is checked."""
    with pytest.raises(RefusedAddressError):
        Guard()._open((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port_of(inside)))))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(inside: Receiver, status: int) -> None:
    async with receiving() as outside:
        outside.answers, outside.answer_headers = [status], {"Location": inside.url}
        outcome = await HttpDelivery(Guard(LOOPBACK), try_s=2).send(outside.url, b"{}", {})

    assert (outcome.status, outcome.is_taken) == (status, False)
    assert inside.taken == []


async def test_no_proxy_of_the_environment_is_used(inside: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", inside.url)
    monkeypatch.setenv("http_proxy", inside.url)

    assert await send(Guard(resolver=Names("127.0.0.1")), "http://hooks.example/")
    assert inside.taken == []


async def test_nothing_of_an_answer_but_its_status_is_kept(inside: Receiver) -> None:
    inside.answers, inside.answer_headers = [500], {"X-Secret": "of the network behind the server"}

    outcome = await HttpDelivery(Guard(LOOPBACK), try_s=2).send(inside.url, b"{}", {})

    assert (outcome.status, outcome.why, outcome.wait_s) == (500, "", None)


async def test_a_gates_webhook_is_guarded_as_well(inside: Receiver) -> None:
    with pytest.raises(UnreachableError, match="may not be reached"):
        await HttpAsking(Guard(), try_s=1).ask(inside.url, b"{}")
    assert inside.taken == []


async def test_what_is_allowed_is_reached_and_nothing_beside_it(inside: Receiver) -> None:
    outcome = await HttpDelivery(Guard(LOOPBACK), try_s=2).send(inside.url, b"{}", {})

    assert outcome.status == 204
    with pytest.raises(RefusedAddressError):
        Guard(LOOPBACK).check("10.0.0.1")
    with pytest.raises(RefusedAddressError):
        Guard(LOOPBACK).check("::1")


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "file:///etc/passwd"])
async def test_the_api_refuses_such_a_webhook(admin: Api, url: str) -> None:
    assert_problem(await admin.post("/v1/webhooks", {"name": "x", "url": url}), 422, "invalid-input")
