"""The command line: one table from command to function. Heavy imports stay inside the functions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alltrades import __version__
from alltrades.data.errors import UserError


@dataclass(frozen=True)
class Command:
    """One command: what it does, an example, how its arguments are declared; `commands.py` has a function of its name."""

    name: str
    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    settings: bool = True  # takes a recipe and --dotted.key value overrides


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default=None, help="recipe: a YAML file or a packaged name")
    parser.add_argument("--small", action="store_true", help="the recipe's small form")


def _preference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preference", nargs="+", default=[], metavar="ENV=NUMBER",
                        help="what a policy that takes a preference acts by; default uniform")


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", default=None, help="recipe: a YAML file or a packaged name; default quickstart")
    parser.add_argument("--small", action="store_true", help="the recipe's small form, for a first look")
    parser.add_argument("--out", default=None, help="run folder; default runs/NAME")
    parser.add_argument("--data", default=None, help="store of demonstrations (the same as --demos.path)")


def _collect(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    parser.add_argument("--out", required=True, help="store to write or continue")


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["specialists", "specialists_joint", "labeled_only"], help="which policies")
    _recipe(parser)
    parser.add_argument("--demos", required=True, help="store of demonstrations")
    parser.add_argument("--labeled-only", default=None, help="labeled-only policy that specialists_joint start from")
    parser.add_argument("--out", required=True, help="folder of the artifact(s)")


def _rollout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="artifact, or folder with one artifact per environment")
    _recipe(parser)
    parser.add_argument("--teacher", default="scratch", help="name of the source: scratch, joint_init or labeled_only")
    parser.add_argument("--episodes", type=int, default=60, help="episodes per environment")
    _preference(parser)
    parser.add_argument("--out", required=True, help="store to write or continue")


def _weigh(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rollouts", nargs="+", help="store of rollouts; of several teachers in the order that distill gets them")
    _recipe(parser)
    parser.add_argument("--demos", required=True, help="store of demonstrations")
    parser.add_argument("--out", required=True, help="folder of the weights")


def _distill(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    parser.add_argument("--demos", required=True, help="store of demonstrations")
    parser.add_argument("--teacher", action="append", required=True, metavar="NAME=POLICIES:ROLLOUTS",
                        help="a teacher's artifact folder and its store of rollouts; repeatable")
    parser.add_argument("--weights", default=None, help="folder that weigh wrote; default: the same weights are estimated here")
    parser.add_argument("--labeled-only", default=None, help="policy to start from with --distill.init labeled_only")
    parser.add_argument("--out", required=True, help="folder of the artifact")


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="artifact, or folder with one artifact per environment")
    _recipe(parser)
    parser.add_argument("--name", default=None, help="name of the row; default the folder's name")
    parser.add_argument("--out", default=None, help="JSON file of the result")
    parser.add_argument("--ensemble", type=float, default=None, metavar="M", help="plan at every step and execute the mean of "
                        "overlapping chunks, weighted by exp(-M i) from the oldest on")
    _execute(parser)
    _preference(parser)


def _execute(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--execute", type=int, default=None, metavar="N", help="actions of a chunk that are executed before the "
                        "next one; default as in training")


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", nargs="+", help="two evaluation JSON files, or run folders (paired over training seeds)")
    parser.add_argument("--rows", nargs=2, default=None, metavar=("A", "B"), help="rows to compare when run folders are given")
    parser.add_argument("--at", type=int, default=None, help="count success within this many steps")
    parser.add_argument("--metric", default="success", help="what to compare: success, or a metric of the environments")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder")
    parser.add_argument("--out", default=None, help="HTML file; default RUN/report.html")


def _pareto(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="finished run folder")
    parser.add_argument("--fronts", nargs="+", default=["linear"], metavar="KIND",
                        help="linear, tchebycheff, worst: a generalist per preference; conditioned: one that takes them")
    parser.add_argument("--divisions", type=int, default=8, help="preferences are the multiples of 1/DIVISIONS that sum to 1")
    parser.add_argument("--preferences", nargs="+", default=[], metavar="A,B,..",
                        help="preferences in place of those, one number per environment of the run")
    parser.add_argument("--row", default="generalist", help="generalist of the run whose settings and weights are used")
    parser.add_argument("--labeled-only", nargs="*", default=["last"], metavar="KIND",
                        help="labeled-only fronts: last, holdout, or none")
    parser.add_argument("--episodes", type=int, default=None, help="evaluation episodes; default those of the run")


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="artifact folder")
    parser.add_argument("--out", default=None, help="ONNX file; default POLICY/export.onnx")
    parser.add_argument("--batch", type=int, default=None, help="fixed batch size; default dynamic")
    parser.add_argument("--observations", default=None, metavar="STORE",
                        help="check the graph on 1,000 observations of this store, too, not on random ones alone")
    _execute(parser)
    _preference(parser)


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="artifact folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; loopback by default")
    parser.add_argument("--port", type=int, default=8000, help="TCP port; 0 picks a free one")
    parser.add_argument("--dashboard", action="store_true", help="operator's page at /dashboard, with a stop button")
    parser.add_argument("--watch", action="store_true", help="load the artifact again when it changes (SIGHUP does, too)")
    parser.add_argument("--limits", default=None, metavar="FILE",
                        help="YAML file of action limits by environment: low, high, rate, acceleration")
    parser.add_argument("--token-file", default=None, help="file with the secret that clients must send")
    parser.add_argument("--certificate", default=None, help="PEM certificate: serve over TLS")
    parser.add_argument("--key", default=None, help="PEM key of the certificate")
    parser.add_argument("--max-message", type=int, default=1 << 20, help="bytes of the largest message")
    parser.add_argument("--max-clients", type=int, default=128, help="connected clients, together")
    parser.add_argument("--max-per-address", type=int, default=None, help="connected clients of one network address")
    parser.add_argument("--rate-limit", type=float, default=1000.0, help="requests per second of one client; 0 for no limit")
    parser.add_argument("--batch", type=int, default=8, help="rows of a policy call; 1 for a single robot")
    parser.add_argument("--budget-ms", type=float, default=1.0, help="longest wait for other clients, to answer them together")
    parser.add_argument("--threads", type=int, default=1, help="processor threads of a policy call")
    parser.add_argument("--device", default="cpu", help="where the policy runs, such as cuda")
    parser.add_argument("--engine", choices=["torch", "onnx"], default="torch",
                        help="what computes actions; onnxruntime is several times faster on a processor")
    parser.add_argument("--drain-seconds", type=float, default=10.0, help="longest wait for requests in flight at the end")
    _preference(parser)


def _deploy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", help="policy folder, exported .onnx file, or ws://HOST:PORT of a server")
    parser.add_argument("--robot", required=True, metavar="ROBOT",
                        help="gym:ID or env:ID, an environment that waits; mujoco:ID or mujoco:FILE.xml, in real time; "
                             "MODULE:CLASS, your own")
    parser.add_argument("--environment", default=None, metavar="ID",
                        help="which of the policy's environments the robot is; default what the robot says, or the only one")
    parser.add_argument("--episodes", type=int, default=1, help="number of episodes")
    parser.add_argument("--steps", type=int, default=None, help="most actions of an episode; default the environment's limit")
    parser.add_argument("--mode", choices=["sync", "async", "ensemble"], default="sync",
                        help="sync: the robot waits for every chunk; async: the next one is drawn while it moves (real-time "
                             "chunking); ensemble: one is drawn at every step, and overlapping chunks are averaged")
    parser.add_argument("--rate", type=float, default=None, metavar="HZ",
                        help="control rate; default the robot's. Limits per control step are scaled by (the rate they were "
                             "declared for) / HZ, those of acceleration by its square, so that limits per second stay")
    parser.add_argument("--fast", action="store_true", help="as fast as possible (gym:ID and env:ID)")
    parser.add_argument("--timeout", type=float, default=1.0, metavar="SECONDS",
                        help="without a fresh action (no new observation of the robot, or no answer of the policy) after which "
                             "the robot is stopped")
    parser.add_argument("--limits", default=None, metavar="FILE",
                        help="YAML file of action limits by environment: low, high, rate, acceleration, the last two per control "
                             "step of the environment")
    parser.add_argument("--record", default=None, metavar="STORE", help="store of episodes to write or continue")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes' starts and of the policy's noise")
    parser.add_argument("--json", default=None, metavar="FILE", help="file for the figures")
    parser.add_argument("--plugins", nargs="*", default=[], help="modules or files that register environments")
    parser.add_argument("--token-file", default=None, help="file with the secret that the server wants")
    parser.add_argument("--certificate", default=None, help="PEM certificate of a wss:// server to trust")
    parser.add_argument("--threads", type=int, default=1, help="processor threads of a policy call")
    parser.add_argument("--device", default="cpu", help="where a policy folder runs, such as cuda")
    _preference(parser)


def _envs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="suites, ids or globs; default everything registered")
    parser.add_argument("--plugins", nargs="*", default=[], help="modules or files that register environments")


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["envs", "train", "sample", "rollout", "latency", "soak", "malformed", "delay", "start"],
                        help="hot path to time; the last five concern deployment")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per measurement")
    parser.add_argument("--names", nargs="*", default=None, help="environments, where they matter; default planar, for "
                        "delay those of the policy")
    parser.add_argument("--policy", default=None, help="artifact folder (start: or an .onnx file); default a fresh "
                        "default generalist")
    parser.add_argument("--steps", type=int, default=None, help="sampling steps instead of the policy's own")
    parser.add_argument("--clients", type=int, nargs="+", default=None, help="latency: numbers of robots, default 1 4 16 64; "
                        "soak: robots, default 8")
    parser.add_argument("--rate", type=float, default=None, help="requests per second of each robot; latency 10, soak 50")
    parser.add_argument("--batch", type=int, default=8, help="rows of a policy call (latency)")
    parser.add_argument("--engine", choices=["torch", "onnx"], default="torch", help="of the server (latency, soak)")
    parser.add_argument("--paths", nargs="+", choices=["torch", "onnx", "server"], default=["torch", "onnx", "server"],
                        help="in-process by engine, and over the server (latency)")
    parser.add_argument("--minutes", type=float, default=60.0, help="length (soak)")
    parser.add_argument("--kill-every", type=float, default=10.0, help="seconds between two kills of robots (soak)")
    parser.add_argument("--messages", type=int, default=100_000, help="number of messages (malformed)")
    parser.add_argument("--delay-ms", type=float, default=60.0, help="time that a reply is withheld, in simulated time (delay)")
    parser.add_argument("--episodes", type=int, default=20, help="episodes per environment (delay)")
    parser.add_argument("--every", type=int, default=None,
                        help="steps between requests (delay); default the policy's execute less the delay")
    parser.add_argument("--overlap", type=int, default=0, help="steps over which the last chunk pulls (delay); default none")
    parser.add_argument("--json", default=None, help="file for the results (latency, soak, malformed, delay, start)")
    parser.add_argument("--repeat", type=int, default=10, help="processes that are started, one after another (start)")


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["info"], help="what to do")
    parser.add_argument("store", help="Zarr store")
    parser.add_argument("--weights", default=None, metavar="FOLDER", help="weights to show as a column: of `weigh`, or of a run")


def _none(parser: argparse.ArgumentParser) -> None:
    return None


COMMANDS = [
    Command("run", "the whole pipeline, or a study, resumable; without a recipe the quickstart",
            "run metaworld_mt10 --seed 1", _run),
    Command("collect", "record demonstrations of scripted experts into a store",
            "collect --environments planar --demos.episodes 10 --out demos.zarr", _collect),
    Command("train", "specialists, or the labeled-only multi-task policy",
            "train specialists --environments planar --demos demos.zarr --out specialists", _train),
    Command("rollout", "pseudo-trajectories of any policy into a store",
            "rollout specialists --environments planar --episodes 60 --out rollouts.zarr", _rollout),
    Command("weigh", "importance weights of rollouts against demonstrations",
            "weigh rollouts.zarr --environments planar --demos demos.zarr --out weights", _weigh),
    Command("distill", "one generalist from the rollouts of its teachers",
            "distill --environments planar --demos demos.zarr --teacher scratch=specialists:rollouts.zarr --out generalist",
            _distill),
    Command("evaluate", "success with intervals on the common evaluation starts",
            "evaluate generalist --environments planar --out generalist.json", _evaluate),
    Command("compare", "paired difference of two evaluations, or of two rows over several runs",
            "compare generalist.json specialists.json", _compare, settings=False),
    Command("report", "one self-contained HTML page for a run", "report runs/quickstart", _report, settings=False),
    Command("pareto", "the Pareto front between the environments of a run", "pareto runs/quickstart --divisions 2", _pareto,
            settings=False),
    Command("export", "one ONNX graph with normaliser and sampling loop", "export runs/quickstart/policies/generalist",
            _export, settings=False),
    Command("serve", "policy server (websocket)", "serve runs/quickstart/policies/generalist --port 8000", _serve,
            settings=False),
    Command("deploy", "run a policy on a robot, and record it",
            "deploy runs/quickstart/policies/generalist --robot mujoco:planar/reach --record robot.zarr", _deploy,
            settings=False),
    Command("envs", "the registry of environments and suites", "envs 'planar/*'", _envs, settings=False),
    Command("bench", "time the hot paths", "bench envs --names planar", _bench, settings=False),
    Command("data", "look at stores", "data info demos.zarr", _data, settings=False),
    Command("doctor", "what is installed and what is missing", "doctor", _none, settings=False),
]


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; see `{self.prog} --help`")


class _SettingsHelp(argparse.Action):
    """--help-settings: list every setting with its default."""

    def __call__(self, *args: object, **kwargs: object) -> None:
        from alltrades.config import describe
        from alltrades.settings import RunSettings

        for key, kind, default, text in describe(RunSettings):
            print(f"--{key}  ({kind}, default {default})  {text}")
        raise SystemExit(0)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = _Parser(prog="alltrades", description="One diffusion policy for many environments, from a handful of demonstrations.",
                  epilog="example: alltrades run", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"alltrades {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        epilog = f"example: alltrades {command.example}"
        if command.settings:
            epilog += ("\n\nevery setting of a recipe is an option too, such as --distill.train.steps 20000; "
                       "--help-settings lists them")
        sub = subparsers.add_parser(command.name, help=command.summary, description=command.summary, epilog=epilog,
                                    formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        command.arguments(sub)
        if command.settings:
            sub.add_argument("--help-settings", action=_SettingsHelp, nargs=0, help="list every setting with its default")
        sub.set_defaults(entry=command)
    return top


def split_overrides(argv: list[str], top: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Separate a command's own arguments from settings (`--a.b value`, `--a.b=value`, `--no-a.b`)."""
    entry = next((c for c in COMMANDS if argv and c.name == argv[0]), None)
    if entry is None or not entry.settings:
        return argv, []
    sub = argparse.ArgumentParser(add_help=True)
    entry.arguments(sub)
    known = {option for action in sub._actions for option in action.option_strings} | {"--help-settings"}
    own, overrides, i = argv[:1], [], 1
    while i < len(argv):
        token = argv[i]
        i += 1
        if not token.startswith("--") or token.split("=")[0] in known:
            own.append(token)
            continue
        overrides.append(token)
        if "=" not in token and not token.startswith("--no-") and i < len(argv) and not argv[i].startswith("--"):
            overrides.append(argv[i])
            i += 1
    return own, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 success; 2 the user's mistake and 1 an environment that raised, both in one line on stderr; any other bug is raised.
    """
    top = parser()
    try:
        own, overrides = split_overrides(sys.argv[1:] if argv is None else list(argv), top)
        args = top.parse_args(own)
        if args.command is None:
            top.print_help()
            return 0
        args.overrides = overrides
        from alltrades import commands

        return int(getattr(commands, args.command)(args))
    except UserError as error:
        print(f"alltrades: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("alltrades: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        from alltrades.envs.adapter import EnvironmentFailure  # not worth its import time before something went wrong

        if not isinstance(error, EnvironmentFailure):
            raise
        print(f"alltrades: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
