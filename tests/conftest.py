"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from lepton_tvm.db import open_database
from tests.support.command_line import lepton
from tests.support.postgres import Server, lacking, running_server
from tests.support.tiers import HOW_TO_RUN, mark_tiers

__all__ = ["lepton", "postgres_server"]

# a busy machine must not fail a test
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tiers before pytest selects by marks."""
    mark_tiers(items, str(config.rootpath))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say how to run what was left out."""
    if config.option.markexpr in ("not rest", "not slow"):
        terminalreporter.write_line(HOW_TO_RUN)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One private server for the whole session; `lepton` is a database with our tables."""
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)
    with running_server() as server, pytest.MonkeyPatch.context() as environment:
        server.execute("CREATE DATABASE lepton TEMPLATE template0")
        environment.setenv("LEPTON_TVM_ARTIFACTS", str(server.folder / "artifacts"))
        open_database(server.url("lepton")).close()
        yield server
