"""Lists go on where the page before ended, by cursors that nobody can make."""

import pytest

from firmware_store.errors import InvalidInputError
from server.services.cursors import Cursors
from tests.integration.test_rest import assert_problem
from tests.integration.test_rest_campaigns import bundle, create
from tests.servers import Api, unique

__all__ = ["bundle"]


async def test_campaigns_are_listed_page_by_page_the_newest_first(admin: Api, bundle: str) -> None:
    cohort = unique("c")
    made = [await create(admin, bundle, cohort=cohort) for _ in range(5)]
    path, seen = f"/v1/campaigns?limit=2&filter=cohort%20%3D%20{cohort}", []
    while path:
        answer = await admin.get(path)
        assert answer.status == 200, answer
        seen.append([row["id"] for row in answer.body["campaigns"]])
        link = answer.headers.get("Link", "")
        assert (answer.body["next"] is not None) == link.endswith('; rel="next"')
        path = link.removeprefix("<").partition(">")[0]

    assert seen == [made[4:2:-1], made[2:0:-1], made[0:1]]


@pytest.mark.parametrize("path", ["/v1/devices", "/v1/campaigns"])
async def test_a_cursor_that_was_touched_or_is_anothers_is_refused(admin: Api, bundle: str, path: str) -> None:
    cohort = unique("c")
    await create(admin, bundle, cohort=cohort)
    await admin.add_device(unique("gw"), "eu", cohort)
    other = {"/v1/devices": "/v1/campaigns", "/v1/campaigns": "/v1/devices"}[path]
    cursor = (await admin.get(path, params={"limit": "1"})).body["next"]
    anothers = (await admin.get(other, params={"limit": "1"})).body["next"]

    assert (await admin.get(path, params={"cursor": cursor})).status == 200
    for text in (cursor[:-1] + ("A" if cursor[-1] != "A" else "B"), cursor[1:], anothers, "gw-1", "~", "é"):
        answer = await admin.get(path, params={"cursor": text})

        assert_problem(answer, 422, "invalid-input")
        assert answer.body["errors"][0]["pointer"] == "?cursor"


def test_another_fleets_cursor_is_none_of_ours() -> None:
    ours, theirs = Cursors(b"ours"), Cursors(b"theirs")

    assert ours.open("devices", ours.seal("devices", "gw-é~")) == "gw-é~"
    with pytest.raises(InvalidInputError, match="no cursor"):
        ours.open("devices", theirs.seal("devices", "gw-1"))
