"""What a broker's own tools see of a message."""

import json

from apps.messaging.envelope import error_headers, headers

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TestHeaders:
    def test_name_the_message_its_schema_trace_and_global_id(self) -> None:
        found = headers(message_id="m1", schema="a.b.v1", trace="request-7", global_id="g1")
        assert found == (("id", "m1"), ("schema", "a.b.v1"), ("trace", "request-7"), ("global-id", "g1"))

    def test_a_w3c_trace_has_its_standard_name(self) -> None:
        assert headers(message_id="m1", schema="s", trace=TRACE) == (("id", "m1"), ("schema", "s"), ("traceparent", TRACE))

    def test_what_is_absent_has_no_header(self) -> None:
        assert headers(message_id="m1", schema="s") == (("id", "m1"), ("schema", "s"))

    def test_a_dead_letter_says_why_and_where_it_came_from(self) -> None:
        error = {
            "reason": "no",
            "code": "R601",
            "attempts": 1,
            "topic": "a.b.c.in",
            "partition": 0,
            "offset": 7,
            "group": "g",
        }
        assert dict(error_headers(json.dumps({"meta": {"error": error}, "body": {}}))) == {
            f"error-{name}": str(value) for name, value in error.items()
        }
