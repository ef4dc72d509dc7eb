"""What a broker's own tools see of a message."""

from apps.messaging.envelope import headers

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TestHeaders:
    def test_name_the_message_its_schema_trace_and_global_id(self) -> None:
        meta = {"message-id": "m1", "schema": "a.b.v1", "trace": "request-7", "global-id": "g1", "steps": ["one"]}
        assert headers(meta) == (("id", "m1"), ("schema", "a.b.v1"), ("trace", "request-7"), ("global-id", "g1"))

    def test_a_w3c_trace_has_its_standard_name(self) -> None:
        assert headers({"message-id": "m1", "trace": TRACE}) == (("id", "m1"), ("traceparent", TRACE))

    def test_what_is_absent_has_no_header(self) -> None:
        assert headers({"message-id": "m1", "trace": "", "global-id": None}) == (("id", "m1"),)
