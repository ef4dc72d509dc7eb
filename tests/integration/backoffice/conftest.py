"""Somebody who may look at everything, and somebody who may look at nothing."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from apps.backoffice.pages import usecase_map
from config import demo
from tests import shop


@pytest.fixture
def chief(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("chief", password="a long one"))
    return client


@pytest.fixture
def newcomer(db: None) -> Client:
    """Staff without a single permission."""
    client = Client()
    client.force_login(User.objects.create_user("newcomer", password="a long one", is_staff=True))
    return client


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Each test has its own world."""
    usecase_map.forget()


@pytest.fixture
def opened(transactional_db: None, running_sandbox: object) -> demo.Demo:
    """The shop, and an authority for its documents."""
    return shop.open_shop()
