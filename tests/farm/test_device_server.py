"""A device's server: whom it serves, what it survives, what it keeps to itself."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_tvm.errors import DeviceError, InputError
from lepton_tvm.farm import DeviceAddress, DeviceSession
from lepton_tvm.farm import rpc_wire as wire
from lepton_tvm.farm.device_client import DeviceLost
from lepton_tvm.farm.device_server import Server
from lepton_tvm.farm.listening import is_loopback
from lepton_tvm.farm.session_files import SessionFiles
from lepton_tvm.measure import this_machine
from tests.support import device_kernels as kernels
from tests.support import servers
from tests.support.fresh_imports import modules_after

HEAVY = ("tvm", "onnx", "onnxslim", "sqlalchemy", "torch", "typer", "rich", "xgboost")


def test_a_device_needs_the_runtime_only() -> None:
    loaded = modules_after(
        "import lepton_tvm.bench.device_main, lepton_tvm.workers.local_runner; "
        "import lepton_tvm.workers.run_worker as w; w.warm_up(); "
        "from lepton_tvm.runtime.library import remote_calls; remote_calls('rpc.ServerLoop')"
    )
    assert "tvm_ffi" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_a_session_and_its_server_load_no_compiler(lone: servers.Running) -> None:
    with DeviceSession(lone.device) as session:
        session.ask("hello")
        for pid in (lone.process.pid, lone.session()):
            libraries = Path(f"/proc/{pid}/maps").read_text()
            assert "libtvm_runtime_extra.so" in libraries
            assert "libtvm_compiler.so" not in libraries


def test_it_listens_on_the_loopback_interface_only(lone: servers.Running) -> None:
    hexed = f"{lone.port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [f[1] for f in lines if f[3] == "0A" and f[1].endswith(f":{hexed}")]
    assert listening == [f"0100007F:{hexed}"]
    wide = [line.split()[1] for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    assert not [address for address in wide if address.endswith(f":{hexed}")]
    assert "warning" not in lone.said


def test_listening_wider_is_warned_of(tmp_path: Path) -> None:
    with servers.device(tmp_path, "wide", "--host", "0.0.0.0") as wide:
        assert "can run any code here" in wide.said


def test_it_tells_its_machine(lone: servers.Running) -> None:
    with DeviceSession(lone.device) as session:
        facts, _ = session.ask("hello")
    assert facts["machine"] == this_machine().to_json()
    assert facts["threads"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_session_that_crashes_leaves_the_server_serving(
    lone: servers.Running, number: signal.Signals
) -> None:
    session = DeviceSession(lone.device)
    os.kill(lone.session(), number)
    with pytest.raises(DeviceLost, match="was lost during 'hello'"):
        session.ask("hello")
    lone.wait_for(f"crashed with signal {int(number)}")
    with DeviceSession(lone.device) as after:
        assert after.ask("hello")[0]["machine"]


def test_a_session_that_hangs_ends_with_its_client(lone: servers.Running) -> None:
    session = DeviceSession(lone.device)
    os.kill(lone.session(), signal.SIGSTOP)
    with pytest.raises(DeviceLost, match="gave no answer in 0 s"):
        session.ask("hello", timeout_s=0.2)
    lone.wait_for("its client is gone and it did not end: stopped")
    with DeviceSession(lone.device) as after:
        assert after.ask("hello")[0]["machine"]


def test_the_time_that_a_client_allows_its_session_is_kept(lone: servers.Running) -> None:
    session = DeviceSession(DeviceAddress("127.0.0.1", lone.port, " -timeout=0.3"))
    lone.wait_for("its time of 0.3 s is over: stopped")
    with pytest.raises(DeviceLost):
        session.ask("hello")


def test_strangers_are_sent_away_and_do_not_block(lone: servers.Running) -> None:
    silent = socket.create_connection(("127.0.0.1", lone.port))
    with socket.create_connection(("127.0.0.1", lone.port)) as web:
        web.sendall(b"GET / HTTP/1.1\r\n\r\n")
        lone.wait_for("it does not speak TVM's RPC")
    with pytest.raises(DeviceLost, match="did not take the session"):
        DeviceSession(DeviceAddress("127.0.0.1", lone.port, "another-key"))
    with DeviceSession(lone.device) as session:
        assert session.ask("hello")[0]["machine"]
    silent.close()


def test_files_are_checked_when_they_come_and_kept_for_the_session(
    lone: servers.Running, tmp_path: Path
) -> None:
    data = b"x" * 100_000
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / "x").write_bytes(data)
    with DeviceSession(lone.device) as session:
        with pytest.raises(InputError, match="arrived damaged"):
            session.ask("put", {"sha256": sha256}, data[:-1] + b"y")
        assert session.ask("missing", {"files": [sha256]})[0] == {"missing": [sha256]}
        session.send_files({sha256: tmp_path / "x"})
        assert session.ask("missing", {"files": [sha256]})[0] == {"missing": []}
    with DeviceSession(lone.device) as session:
        assert session.ask("missing", {"files": [sha256]})[0] == {"missing": [sha256]}


def test_a_failing_command_leaves_the_session_as_it_is(lone: servers.Running) -> None:
    with DeviceSession(lone.device) as session:
        with pytest.raises(InputError, match="unknown command 'dance'; this server has hello,"):
            session.ask("dance")
        with pytest.raises(DeviceError, match="KeyError"):
            session.ask("missing")
        with pytest.raises(InputError, match="was not brought"):
            session.ask("open", {"artifacts": ["0" * 64], "threads": 1})
        assert session.ask("hello")[0]["machine"]


def test_code_that_changed_on_the_device_is_not_loaded(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path)
    data = b"some code"
    sha256 = hashlib.sha256(data).hexdigest()
    files.put(sha256, data)
    files.path(sha256, check=True).write_bytes(b"other code")
    with pytest.raises(InputError, match="has changed on the device"):
        files.path(sha256, check=True)


def test_room_is_made_by_what_was_not_used_for_longest(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path, most_bytes=250)
    names = []
    for i in range(4):
        data = bytes([i]) * 100
        names.append(hashlib.sha256(data).hexdigest())
        if i == 3:
            files.missing([names[1], names[3]])
        files.put(names[i], data)
    assert files.missing(names) == sorted([names[0], names[2]])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_server_takes_its_session_along(tmp_path: Path) -> None:
    with servers.device(tmp_path) as server:
        session = DeviceSession(server.device)
        pid = server.session()
        server.kill()
        servers.wait_until(lambda: not servers.alive(pid), lambda: f"the end of {pid}")
        with pytest.raises(DeviceLost):
            session.ask("hello")


def test_what_a_killed_server_left_goes_with_the_next_session(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    with servers.device(tmp_path, "first", temporary=room) as server:
        session = DeviceSession(server.device)
        session.ask("put", {"sha256": hashlib.sha256(b"x").hexdigest()}, b"x")
        server.kill()
        session.close()
    left = list(room.rglob("*.so"))
    assert len(left) == 1
    with (
        servers.device(tmp_path, "second", temporary=room) as server,
        DeviceSession(server.device) as session,
    ):
        session.ask("hello")
        assert not left[0].parent.exists()


def test_no_room_for_a_session_leaves_the_server_serving(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    with servers.device(tmp_path, temporary=room) as server:
        with DeviceSession(server.device) as session:  # from here on it asks for no other folder
            session.ask("hello")
        servers.wait_until(lambda: not list(room.iterdir()), lambda: "the end of the session")
        room.rmdir()
        with pytest.raises(DeviceLost, match="its server prints the reason there"):
            DeviceSession(server.device)
        server.wait_for(f"cannot make a folder for candidate kernels in {room}")
        room.mkdir()
        with DeviceSession(server.device) as after:
            assert after.ask("hello")[0]["machine"]
    assert list(room.iterdir()) == []


def test_tvm_s_own_client_is_served(lone: servers.Running, libraries: dict[str, str]) -> None:
    code = f"""
import numpy as np, tvm
from tvm import rpc
remote = rpc.connect("127.0.0.1", {lone.port})
remote.upload({libraries["double"]!r}, "k.so")
kernel = remote.load_module("k.so")
x = np.arange({kernels.SIZE}, dtype="float32")
a, b = (tvm.runtime.tensor(v, remote.cpu()) for v in (x, 0 * x))
kernel["main"](a, b)
assert (b.numpy() == 2 * x).all()
print("same")
"""
    light = {**os.environ, "TVM_USE_RUNTIME_LIB": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=light)
    assert done.stdout.strip() == "same", done.stderr


def test_options_that_cannot_be_are_told() -> None:
    with pytest.raises(InputError, match="needs a --key"):
        Server(port=0, tracker=("127.0.0.1", 9190))
    with pytest.raises(InputError, match="no spaces and no colons"):
        Server(port=0, key="a:b")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1, port {port}: .*another with --port"):
            Server(port=port)
    with pytest.raises(InputError, match=r"cannot listen on 203.*name another with --host"):
        Server(host="203.0.113.7", port=0)
    assert is_loopback("127.0.0.1")
    assert not is_loopback("0.0.0.0")


def test_messages_are_what_they_were() -> None:
    assert wire.unpacked(wire.packed({"a": [1]}, b"\0data")) == ({"a": [1]}, b"\0data")
    for damaged in (b"", b"\xff" * 20, wire.packed({"a": 1})[:-1]):
        with pytest.raises(ValueError, match=r"."):
            wire.unpacked(damaged)
