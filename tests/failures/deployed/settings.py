"""The project's settings and the tests' own app: what every process of a test's deployment runs with."""

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS as OURS

INSTALLED_APPS = [*OURS, "tests.failures.deployed.apps.DeployedConfig"]
