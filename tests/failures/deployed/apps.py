"""Registers the handlers of numbered messages, and arms the points at which this process is to die."""

from django.apps import AppConfig


class DeployedConfig(AppConfig):
    name = "tests.failures.deployed"
    label = "deployed"

    def ready(self) -> None:
        """After every other app: the sagas are registered by now."""
        from tests.failures.deployed import breakpoints, handlers, lifeline  # noqa: F401  # registers the handlers

        breakpoints.arm()
        lifeline.hold()
