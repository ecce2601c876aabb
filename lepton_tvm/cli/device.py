"""`lepton-tvm device`: make this machine a device of a farm, keep its tracker, look at all."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from lepton_tvm.cli.command import Output, command, new_app
from lepton_tvm.cli.options import Json

__all__ = ["app"]

app = new_app(
    name="device", help="Measure on other machines: serve, track, list.", no_args_is_help=True
)

Key = Annotated[
    str,
    typer.Option("--key", metavar="KEY", help="The kind of device, as clients ask for it."),
]
Host = Annotated[
    str,
    typer.Option(
        "--host",
        help="Address to listen on. All others than this machine's own open it to the network: "
        "who reaches the port can run any code here.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option("--port", min=0, max=65535, help="Default: the first free one.", show_default=""),
]
Most = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="The most a client may use; default: all.",
        show_default=False,
    ),
]
Tracker = Annotated[
    str | None,
    typer.Option("--tracker", metavar="HOST:PORT", help="The tracker to offer this device to."),
]
NeededTracker = Annotated[
    str, typer.Option("--tracker", metavar="HOST:PORT", help="The tracker to ask.")
]


@command(app, "serve")
def serve(
    tracker: Tracker = None,
    key: Key = "",
    host: Host = "127.0.0.1",
    port: Port = None,
    threads: Most = None,
    as_json: Json = False,
) -> Output:
    """Serve clients that measure on this machine, until Ctrl-C.

    Needs only TVM's runtime."""
    from lepton_tvm.bench.device_engines import Engines
    from lepton_tvm.farm.serve_device import serve_device

    server = serve_device(
        host=host, port=port, tracker=tracker, key=key, threads=threads, handlers=[Engines],
        say=_say,
    )  # fmt: skip
    data = {"host": server.host, "port": server.port, "key": key, "sessions": server.sessions}
    return Output(data, f"{server.sessions} session(s) were served")


@command(app, "tracker")
def track(host: Host = "127.0.0.1", port: Port = None, as_json: Json = False) -> Output:
    """Keep the list of devices that others ask, until Ctrl-C.

    tune, compare and bench ask it with --tracker."""
    from lepton_tvm.farm.tracker_server import serve_tracker

    address = serve_tracker(host=host, port=port, say=_say)
    return Output({"host": address[0], "port": address[1]}, "the tracker has stopped")


@command(app, "list")
def list_devices(tracker: NeededTracker, as_json: Json = False) -> Output:
    """Show a tracker's devices: key, machine, free or busy."""
    from lepton_tvm.farm.tracker_listing import list_farm

    data = list_farm(tracker)
    return Output(data, _table(data))


def _table(data: dict[str, Any]) -> Any:
    from rich.table import Table

    caption = None if data["devices"] else "no device is known to this tracker"
    table = Table(title=f"devices of {data['tracker']}", caption=caption, caption_justify="left")
    for name in ("key", "device", "state", "machine", "arch"):
        table.add_column(name)
    for name in ("threads", "hardware", "tvm"):
        table.add_column(name, justify="right")
    for d in data["devices"]:
        machine = d["machine"] or {}
        table.add_row(
            d["key"],
            f"{d['host']}:{d['port']}",
            d["state"] or "?",
            machine.get("cpu", "TVM's own server"),
            machine.get("arch", ""),
            str(d["threads"] or ""),
            d["hardware"] or "",
            d["tvm"] or "",
        )
    return table


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
