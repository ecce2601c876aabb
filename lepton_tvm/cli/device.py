"""`lepton-tvm device`: serve this machine to a farm, keep its tracker, list its devices."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from lepton_tvm.cli.command import Output, command, new_app
from lepton_tvm.cli.options import Json

__all__ = ["app"]

app = new_app(
    name="device", help="Measure on other machines: serve, tracker, list.", no_args_is_help=True
)

Key = Annotated[
    str,
    typer.Option("--key", metavar="KEY", help="Name the kind of device, as clients ask for it."),
]
Host = Annotated[
    str,
    typer.Option(
        "--host",
        help="Listen on this address. Any other than 127.0.0.1 exposes it to the network: anyone "
        "who can reach the port can run code here.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port", min=0, max=65535, help="Listen on this port.", show_default="the first free one"
    ),
]
Most = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Let clients use at most N threads.",
        show_default="all cores",
    ),
]
Tracker = Annotated[
    str | None,
    typer.Option("--tracker", metavar="HOST:PORT", help="Offer this device to a tracker."),
]
NeededTracker = Annotated[
    str, typer.Option("--tracker", metavar="HOST:PORT", help="Ask this tracker.")
]


@command(app, "serve", example="lepton-tvm device serve --tracker 10.0.0.1:9190 --key pi5")
def serve(
    tracker: Tracker = None,
    key: Key = "",
    host: Host = "127.0.0.1",
    port: Port = None,
    threads: Most = None,
    as_json: Json = False,
) -> Output:
    """Let other machines measure on this one, until Ctrl-C.

    Needs only TVM's runtime."""
    from lepton_tvm.bench.device_engines import Engines
    from lepton_tvm.farm.serve_device import serve_device

    server = serve_device(
        host=host, port=port, tracker=tracker, key=key, threads=threads, handlers=[Engines],
        say=_say,
    )  # fmt: skip
    data = {"host": server.host, "port": server.port, "key": key, "sessions": server.sessions}
    return Output(data, f"{server.sessions} session(s) were served")


@command(app, "tracker", example="lepton-tvm device tracker --host 10.0.0.1 --port 9190")
def track(host: Host = "127.0.0.1", port: Port = None, as_json: Json = False) -> Output:
    """Keep the list of a farm's devices, until Ctrl-C.

    tune, compare and bench use it with --tracker."""
    from lepton_tvm.farm.tracker_server import serve_tracker

    address = serve_tracker(host=host, port=port, say=_say)
    return Output({"host": address[0], "port": address[1]}, "the tracker has stopped")


@command(app, "list", example="lepton-tvm device list --tracker 10.0.0.1:9190")
def list_devices(tracker: NeededTracker, as_json: Json = False) -> Output:
    """Show a tracker's devices: key, machine, free or busy."""
    from lepton_tvm.farm.tracker_listing import list_farm

    data = list_farm(tracker)
    return Output(data, _table(data))


def _table(data: dict[str, Any]) -> Any:
    from rich.table import Table

    caption = None if data["devices"] else "this tracker knows no devices"
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
