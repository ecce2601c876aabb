"""A PostgreSQL server for tests: on a Unix socket in a folder of its own, gone at the end."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSWORD = "s3cret/of:tests"
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # clients are killed here, never the server
    "shared_buffers": "32MB",
    "max_connections": "60",
    "autovacuum": "off",
}


def lacking() -> str | None:
    """Why no server can be started here, or None."""
    if importlib.util.find_spec("psycopg") is None:
        return 'psycopg is not installed: pip install -e ".[dev]"'
    if _program("initdb") is None:
        return "no PostgreSQL server found: apt-get install postgresql"
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or _unprivileged() is None):
        return "PostgreSQL refuses to run as root, and there is no other user to run it as"
    return None


@dataclass
class Server:
    """A running server; `tester` is its superuser."""

    folder: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str, user: str = "tester", password: str = PASSWORD) -> str:
        """The URL of one of its databases."""
        from sqlalchemy.engine import URL

        url = URL.create(
            "postgresql+psycopg",
            user,
            password,
            database=database,
            query={"host": str(self.folder)},
        )
        return url.render_as_string(hide_password=False)

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """A fresh database's URL; it is dropped at the end whoever is still connected."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement as superuser, outside a transaction."""
        import psycopg

        with psycopg.connect(
            host=str(self.folder),
            user="tester",
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """Start a server; stop it and remove its folder at the end."""
    # Not pytest's folder, which other users may not enter; a socket's path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="lepton-pg-", dir="/tmp"))
    as_user = []
    if os.geteuid() == 0:
        user = _unprivileged()
        assert user is not None
        os.chown(folder, user.pw_uid, user.pw_gid)
        ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        as_user = ["setpriv", "--pdeathsig=QUIT", *ids]
    try:
        _initialise(folder, as_user)
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        with (folder / "log").open("wb") as log:
            command = [*as_user, str(_program("postgres")), "-D", str(folder / "data")]
            process = subprocess.Popen(
                [*command, "-k", str(folder), *settings], stdout=log, stderr=log, cwd="/"
            )
        try:
            _wait(folder, process)
            yield Server(folder)
        finally:
            process.send_signal(signal.SIGQUIT)  # nothing has to be kept
            process.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _initialise(folder: Path, as_user: list[str]) -> None:
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    command = [*as_user, str(_program("initdb")), "-D", str(folder / "data"), "-U", "tester"]
    options = ["--auth=scram-sha-256", f"--pwfile={password}", "--locale=C.UTF-8", "-E", "UTF8"]
    done = subprocess.run(
        [*command, *options, "--no-sync"], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _wait(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the server says that it is ready."""
    for _ in range(600):
        said = (folder / "log").read_text(errors="replace")
        if "ready to accept connections" in said:
            return
        assert process.poll() is None, f"PostgreSQL did not start: {said}"
        time.sleep(0.05)
    raise AssertionError("PostgreSQL did not get ready in 30 s")


def _program(name: str) -> Path | None:
    """The newest server's program of that name, from Debian's folders or PATH."""
    found = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"),
        key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[4])],
    )
    on_path = shutil.which(name)
    return found[-1] if found else Path(on_path) if on_path else None


def _unprivileged() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None
