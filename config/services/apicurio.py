"""Apicurio Registry from Maven coordinates: a schema registry with Confluent's API, on loopback."""

import json
import shutil
import urllib.request
from pathlib import Path

from config.services.daemon import BASE_DIR, Daemon, ServiceFailed, install_debian, run

HEAP = "-Xmx256m"
POM = BASE_DIR / "deploy" / "apicurio" / "pom.xml"
CHECK_TIMEOUT_S = 3


class Apicurio(Daemon):
    """One node. Its schemas are kept in a file of its embedded H2: topics keep records that name them."""

    name = "apicurio"
    port_names = ("http",)

    def install(self) -> None:
        """Java and Maven from Debian when missing, the program by Maven when missing or when the pom has changed."""
        install_debian({"java": "default-jre-headless"})
        stamp = self._program / "pom.xml"
        if stamp.exists() and stamp.read_bytes() == POM.read_bytes():
            return
        install_debian({"mvn": "maven"})
        shutil.rmtree(self._program, ignore_errors=True)
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack"
        run(["mvn", "-q", "-B", "-f", str(POM), goal, f"-DoutputDirectory={self._program}"])
        stamp.write_bytes(POM.read_bytes())

    @property
    def _program(self) -> Path:
        return self.dir / "program"

    def prepare(self) -> None:
        """Nothing: it is configured by its environment."""

    def process_environment(self) -> dict[str, str]:
        """Where it listens, and where it keeps its schemas: written at once, so that a power cut loses no id."""
        return {
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "QUARKUS_HTTP_PORT": str(self.port("http")),
            "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
            "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{self.dir / 'data' / 'registry'};WRITE_DELAY=0",
        }

    def command(self) -> list[str]:
        """The runnable jar in the foreground."""
        jars = sorted(self._program.glob("apicurio-registry-app-*-runner.jar"))
        if not jars:
            raise ServiceFailed(f"{self._program} holds no Apicurio Registry. Delete that folder and start again.")
        return ["java", HEAP, "-jar", str(jars[0])]

    def check(self) -> None:
        """List the subjects, as a client would."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
        with opener.open(f"{self._url()}/subjects", timeout=CHECK_TIMEOUT_S) as answer:
            json.loads(answer.read())

    def _url(self) -> str:
        return f"http://127.0.0.1:{self.port('http')}/apis/ccompat/v7"

    def environment(self) -> dict[str, str]:
        """SCHEMA_REGISTRY_URL."""
        return {"SCHEMA_REGISTRY_URL": self._url()}
