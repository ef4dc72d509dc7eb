"""Where a merchant's URL may lead to."""

import ipaddress
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.webhooks import addresses
from apps.webhooks.addresses import InvalidUrl, NotReachable, NotSent, check_url, is_public, resolve

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",  # the clouds' metadata
    "100.64.0.1",  # carriers' NAT
    "100.100.100.200",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",  # public in disguise: nobody's name has it
    "::10.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "100::1",
    "2001::1",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a00:1::",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "ff02::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2001:4860:4860::8888"]
# Every form in which a resolver takes 127.0.0.1, 10.0.0.1 or 169.254.169.254 for an address.
FORMS = [
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0x0a000001",
    "012.0.0.1",
    "167772161",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
]


@pytest.fixture
def strict(settings: Any) -> None:
    settings.WEBHOOKS_ALLOW_LOCAL = False


class TestAddress:
    @pytest.mark.parametrize("address", PRIVATE)
    def test_of_nobody_or_of_ours_is_refused(self, address: str) -> None:
        assert not is_public(address)

    @pytest.mark.parametrize("address", PUBLIC)
    def test_of_the_internet_is_taken(self, address: str) -> None:
        assert is_public(address)

    @settings(deadline=None)
    @given(st.ip_addresses())
    def test_is_never_taken_where_the_standard_library_says_private(self, address: Any) -> None:
        if is_public(str(address)):
            assert address.is_global
            assert not any((address.is_private, address.is_loopback, address.is_link_local, address.is_multicast))

    @settings(deadline=None)
    @given(st.ip_addresses(v=4))
    def test_of_version_4_in_one_of_version_6_is_never_taken(self, address: ipaddress.IPv4Address) -> None:
        for prefix in ("::ffff:", "::", "64:ff9b::"):
            assert not is_public(f"{prefix}{address}")


@pytest.mark.usefixtures("strict")
class TestUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "https://example.com",
            "https://example.com/hooks?shop=1",
            "https://example.com:8443/hooks",
            "https://8.8.8.8/hooks",
            "https://[2606:4700:4700::1111]/hooks",
        ],
    )
    def test_is_taken(self, url: str) -> None:
        assert check_url(url).scheme == "https"

    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/hooks",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https:///hooks",
            "https://",
            "",
            "example.com",
            "https://user:secret@example.com/",
            "https://user@example.com/",
            "https://example.com/#there",
            "https://example.com:22/",
            "https://example.com:5432/",
            "https://example.com:80/",
            "https://example.com:99999/",
            "https://example.com:x/",
            "https://localhost/",
            "https://localhost./",
            "https://db/",
            "https://exa mple.com/",
            "https://example.com/\r\nX: y",
            "https://example.com\\@10.0.0.1/",
            "https://exämple.com/",
            "https://ex%61mple.com/",
            "https://[fe80::1%25eth0]/",
            "https://[::1",
            "https://example.com/" + "a" * 500,
            *(f"https://{'[' * (':' in one)}{one}{']' * (':' in one)}/" for one in PRIVATE),
            *(f"https://{one}/" for one in FORMS),
        ],
    )
    def test_is_refused(self, url: str) -> None:
        with pytest.raises(InvalidUrl) as refusal:
            check_url(url)
        assert (refusal.value.code, refusal.value.field) == ("R902", "url")

    @settings(deadline=None)
    @given(st.text(max_size=60))
    def test_of_any_text_is_taken_or_refused(self, text: str) -> None:
        for url in (text, f"https://{text}", f"https://{text}/"):
            with suppress(InvalidUrl):
                assert check_url(url).hostname

    def test_of_a_developer_may_be_local(self, settings: Any) -> None:
        settings.WEBHOOKS_ALLOW_LOCAL = True
        assert check_url("http://localhost:8000/hooks").port == 8000
        for url in ("ftp://localhost/", "http://user:secret@localhost/", "http:///"):
            with pytest.raises(InvalidUrl):
                check_url(url)


@pytest.mark.usefixtures("strict")
class TestResolve:
    def test_refuses_what_a_name_server_says_is_private(self) -> None:
        with pytest.raises(NotReachable, match="not public"):
            resolve("localhost", 443)  # asked for in earnest: every machine has this name

    @pytest.mark.parametrize("form", FORMS)
    def test_refuses_every_form_of_a_private_address(self, form: str) -> None:
        with pytest.raises(NotReachable):
            resolve(form, 443)  # by the system's resolver

    @pytest.mark.parametrize("private", PRIVATE)
    def test_refuses_a_name_with_one_private_address_among_public_ones(self, private: str) -> None:
        with pytest.raises(NotReachable, match="not public"):
            resolve("example.com", 443, look_up=lambda _host, _port: ["8.8.8.8", private])

    def test_asks_once_and_gives_what_it_looked_at(self) -> None:
        answers = [["8.8.8.8"], ["127.0.0.1"]]  # a name that turns private behind the check
        assert resolve("example.com", 443, look_up=lambda _host, _port: answers.pop(0)) == ["8.8.8.8"]
        assert answers == [["127.0.0.1"]]

    def test_takes_no_more_than_so_many_addresses(self) -> None:
        many = [f"8.8.8.{n}" for n in range(100)]
        assert resolve("example.com", 443, look_up=lambda _host, _port: many) == many[: addresses.ADDRESSES_MAX]

    def test_does_not_wait_for_a_resolver_without_an_end(self) -> None:
        end = threading.Event()

        def stuck(_host: str, _port: int) -> Sequence[str]:
            end.wait(30)
            return ["8.8.8.8"]

        with pytest.raises(NotReachable, match="in time"):
            resolve("example.com", 443, timeout_s=0.01, look_up=stuck)
        end.set()

    def test_leaves_only_so_many_lookups_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        end = threading.Event()
        monkeypatch.setattr(addresses, "_resolving", threading.BoundedSemaphore(2))

        def stuck(_host: str, _port: int) -> Sequence[str]:
            end.wait(30)
            return []

        for _ in range(2):
            with pytest.raises(NotReachable, match="in time"):
                resolve("example.com", 443, timeout_s=0.01, look_up=stuck)
        with pytest.raises(NotSent, match="Too many"):
            resolve("example.com", 443, timeout_s=0.01, look_up=stuck)
        end.set()

    def test_says_that_there_is_no_such_name(self) -> None:
        with pytest.raises(NotReachable, match="not found"):
            resolve("no-such-name.invalid", 443)
        with pytest.raises(NotReachable, match="not found"):
            resolve("a" * 70 + ".com", 443)  # no label is that long
