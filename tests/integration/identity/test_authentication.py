"""HTTP Basic on a real view."""

import base64
from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.integration.payments.world import basic, merchant

pytestmark = pytest.mark.django_db


def get(authorization: str) -> Any:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=authorization)
    return client.get("/payments")


class TestAccountBasicAuthentication:
    def test_lets_the_right_secret_in(self) -> None:
        client, _ = merchant()
        assert client.get("/payments").status_code == 200

    def test_a_wrong_secret_and_an_unknown_account_look_the_same(self) -> None:
        client, code = merchant()
        right = base64.b64decode(client._credentials["HTTP_AUTHORIZATION"].split()[1]).decode().split(":")[1]
        wrong = right[:-1] + ("a" if right[-1] != "a" else "b")
        answers = [get(basic(code, wrong)), get(basic("acc_nobody", right)), get(basic(code, "x")), get(basic(code, ""))]
        bodies = [{**answer.json(), "request_id": ""} for answer in answers]
        assert [answer.status_code for answer in answers] == [401] * 4
        assert all(body == bodies[0] for body in bodies)
        assert bodies[0]["code"] == "R701"
        assert {answer["WWW-Authenticate"] for answer in answers} == {'Basic realm="Lastro", charset="UTF-8"'}
        assert {answer["Content-Type"] for answer in answers} == {"application/problem+json"}

    @pytest.mark.parametrize(
        "header",
        [
            "Basic",
            "Basic ",
            "Basic %%%",
            "Basic " + "A" * 600,
            "Basic /////w==",
            "Basic AAAA",
            "basic YTpi",
            "Basic YWNjX2RlbW8=",
        ],
    )
    def test_a_malformed_header_is_refused(self, header: str) -> None:
        answer = get(header)
        assert (answer.status_code, answer.json()["code"]) == (401, "R701")

    def test_another_scheme_counts_as_none(self) -> None:
        assert get("Bearer abc").json()["code"] == "R010"
