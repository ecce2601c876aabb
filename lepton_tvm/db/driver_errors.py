"""From errors of database drivers to one sentence for people."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["is_damage", "postgres_reason", "sqlite_reason", "write_rights"]


def sqlite_reason(text: str, file: Path | None) -> str:
    """A sentence for the text of a SQLite error."""
    low = text.lower()
    if "locked" in low or "busy" in low:
        return "it stayed locked by another process; wait for that process, then run again"
    if "readonly" in low or "read-only" in low:
        return f"it is read-only, nothing was stored; make it writable with: chmod u+w {file}"
    if "full" in low:
        return "the disk is full, nothing was stored; free some space and run again"
    if "not a database" in low:
        return "the file is not a SQLite database; give another file"
    if is_damage(text):
        return "the file is damaged; restore it from a copy or an export"
    if "unable to open" in low:
        return f"it cannot be opened ({text}); check the folder and its permissions"
    return text


def is_damage(text: str) -> bool:
    """Whether a SQLite error says that the file itself is not what it should be."""
    low = text.lower()
    return any(
        told in low
        for told in ("malformed", "corrupt", "not a database", "could not decode to utf")
    )


def postgres_reason(text: str, state: str | None, user: str | None) -> str:
    """A sentence for a PostgreSQL error: its text, its SQLSTATE where it has one, and the user."""
    said = " ".join(text.split())
    if state == "55P03":
        return "it stayed locked by another process; wait for that process, then run again"
    if state == "42501":
        return f"user {user!r} lacks rights ({said}); its owner gives them with: " + write_rights(
            user
        )
    if state == "25006":
        return f"it is read-only, nothing was stored ({said}); use the primary server"
    if state == "53100":
        return "the server's disk is full, nothing was stored; free some space and run again"
    if state and (state.startswith("57P") or state.startswith("08")):
        return f"the server ended the connection, nothing unfinished was stored ({said}); run again"
    if state is not None:
        return said
    return _connection_reason(said, user)


def write_rights(user: str | None) -> str:
    """The statement by which a user may write."""
    return f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{user}"'


def _connection_reason(said: str, user: str | None) -> str:
    low = said.lower()
    if "password authentication failed" in low:
        return f"the server refuses user {user!r}: wrong user or password; correct the URL"
    if "no password supplied" in low:
        return "the server wants a password; give it in the URL, PGPASSWORD or ~/.pgpass"
    missing = re.search(r'database "([^"]*)" does not exist', said)
    if missing:
        return f"the server has no such database; create it with: createdb {missing[1]}"
    if re.search(r'role "[^"]*" does not exist', said):
        return f"the server does not know user {user!r}; create it with: createuser {user}"
    if "connection timeout" in low or "timed out" in low or "timeout expired" in low:
        return f"the server does not answer in time ({said}); check host, port and firewall"
    if "could not translate host name" in low or "resolve" in low:
        return f"its host name is not known ({said})"
    if "refused" in low or "no such file" in low:
        return f"no server listens there ({said}); start it, or correct host and port"
    if "lost" in low or "closed" in low or "terminat" in low:
        return f"the connection was lost, nothing unfinished was stored ({said}); run again"
    return said
