"""The list of commands. Each is a function in the module of its subject."""

from __future__ import annotations

from typing import Annotated

import typer

from exitfsm import __version__
from exitfsm.cli import (
    alerting,
    alpaca_checks,
    auditing,
    backing_up,
    configuring,
    copying,
    demo,
    owning,
    reading,
    running,
    screen,
    simulating,
    standing,
    steering,
    watching,
    whatif,
)

app = typer.Typer(
    name="exitfsm",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, which reads the same in a terminal, a pager and the docs
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
_HELP = """Get a trading bot out of its positions: exactly once, with every step recorded.

\b
see it work         exitfsm demo
run your own bars   exitfsm simulate bars.csv --store exits.db
read what happened  exitfsm history exits.db

Exit codes: 0 all is well, 1 something was found, 2 wrong usage or input.
"""
config_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
alerts_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        screen.emit(f"exitfsm {__version__}\n")
        raise typer.Exit


@app.callback(help=_HELP)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Show the help where no command is given (the text is `_HELP`, whose lines are to stay as they are)."""


app.command("demo")(demo.demo)
app.command("simulate")(simulating.simulate)
app.command("run")(running.run)
app.command("pause")(steering.pause)
app.command("resume")(steering.resume)
app.command("exit")(steering.exit_)
app.command("flatten")(steering.flatten)
app.command("release")(steering.release)
app.command("acknowledge")(steering.acknowledge)
app.command("adopt")(steering.adopt)
app.command("ignore")(steering.ignore)
app.command("set-stop")(steering.set_stop)
app.command("set-policy")(steering.set_policy)
app.command("reload")(steering.reload_)
app.command("sync")(steering.sync)
app.command("stop")(steering.stop)
app.command("preflight")(alpaca_checks.preflight)
app.command("status")(standing.status)
app.command("watch")(watching.watch)
app.command("history")(reading.history)
app.command("verify")(auditing.verify)
app.command("anchor")(auditing.anchor)
app.command("explain")(auditing.explain)
app.command("whatif")(whatif.whatif)
app.command("audit")(auditing.audit)
app.command("export")(auditing.export)
app.command("backup")(backing_up.backup)
app.command("copy")(copying.copy)
app.command("owner")(owning.owner)
app.command("diagram")(reading.diagram)
app.add_typer(config_app, name="config", help="Check, describe and show the configuration.")
config_app.command("check")(configuring.check)
config_app.command("schema")(configuring.schema)
config_app.command("show")(configuring.show)
app.add_typer(alerts_app, name="alerts", help="Try whether alarms reach a person.")
alerts_app.callback()(lambda: None)
alerts_app.command("test")(alerting.try_out)
