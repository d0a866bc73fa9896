"""The command line: `python -m dev.cluster COMMAND`."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dev.cluster.current import CurrentProvider
from dev.cluster.daemons import DAEMONS, Options
from dev.cluster.engines import Docker, Podman, build_ahead, order_ahead, push_images
from dev.cluster.errors import ClusterError
from dev.cluster.golang import MODULES, ensure_programs
from dev.cluster.images import IMAGES, NODE_IMAGES, PROJECT_IMAGES, references
from dev.cluster.kind import KindProvider
from dev.cluster.kwok import FakeNodes
from dev.cluster.lock import exclusive
from dev.cluster.native import NativeProvider
from dev.cluster.node import Node
from dev.cluster.packages import install_missing
from dev.cluster.progress import say
from dev.cluster.providers import Kind, Provider, choose_provider, kubeconfig_in_force
from dev.cluster.settings import Folders, find_folders, find_network
from dev.cluster.shell import is_installed

NO_FAKE_NODES = "fake nodes run beside a node of our own only (CLUSTER=node)"


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; 1 means that it failed and said why."""
    arguments = build_parser().parse_args(words)
    try:
        return int(arguments.run(arguments) or 0)
    except ClusterError as error:
        say(f"error: {error}")
    except KeyboardInterrupt:
        say("\nstopped; `up` goes on from here, `down` removes everything")
    return 1


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(prog="python -m dev.cluster", description=__doc__)
    parser.set_defaults(lift_limits=False, force=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="bring the cluster up; harmless when it already is")
    up.add_argument("--lift-limits", action="store_true", help="no client limits for controllers, for benchmarks")
    up.add_argument("--kwok", action="store_true", help="fake nodes as well")
    _add_fake_node_options(up)
    _add_force(up)
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="stop everything and remove its traces")
    _add_force(down)
    down.set_defaults(run=_down)

    commands.add_parser("status", help="what runs").set_defaults(run=_status)
    commands.add_parser("kubeconfig", help="print the kubeconfig's path").set_defaults(run=_kubeconfig)
    commands.add_parser("env", help="print exports for a shell").set_defaults(run=_environment)
    commands.add_parser("images", help="print every image's reference").set_defaults(run=_images)
    _add_image_commands(commands)
    _add_inspection_commands(commands)
    return parser


def _add_image_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    build = commands.add_parser("build", help="build missing programs and images ahead; needs no cluster")
    build.set_defaults(run=_build)

    load = commands.add_parser("load", help="build images and make them available to pods")
    load.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(IMAGES)}; default: the project's")
    _add_force(load)
    load.set_defaults(run=_load)

    push = commands.add_parser("push", help="build images and push them to a registry")
    push.add_argument("registry", metavar="REGISTRY", help="such as registry.example.com/team")
    push.add_argument("names", nargs="*", metavar="NAME", help="default: the project's")
    push.set_defaults(run=_push)


def _add_inspection_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    logs = commands.add_parser("logs", help="the end of a daemon's log")
    logs.add_argument("daemon", nargs="?", choices=[*DAEMONS, "kwok"], help="default: all")
    logs.add_argument("-f", "--follow", action="store_true", help="go on printing")
    logs.add_argument("-n", "--lines", type=int, default=40)
    logs.set_defaults(run=_logs)

    kwok = commands.add_parser("kwok", help="fake nodes, for tests of scale and of GPUs")
    kwok.add_argument("action", choices=["up", "down"])
    _add_fake_node_options(kwok)
    kwok.set_defaults(run=_kwok)


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="also when the cluster is another checkout's")


def _add_fake_node_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=1, help="number of fake nodes")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of each fake node")


def _kind() -> Kind:
    return choose_provider(os.environ, is_root=os.geteuid() == 0)


def _node(arguments: argparse.Namespace) -> Node:
    return Node(find_folders(), find_network(), Options(lift_limits=arguments.lift_limits))


def _provider(arguments: argparse.Namespace) -> Provider:
    match _kind():
        case Kind.NODE:
            return NativeProvider(_node(arguments), force=arguments.force)
        case Kind.KIND:
            return KindProvider(find_folders())
        case Kind.CURRENT:
            return CurrentProvider(kubeconfig_in_force())


def _up(arguments: argparse.Namespace) -> None:
    _provider(arguments).up()
    if arguments.kwok:
        _fake_nodes(arguments).up(arguments.nodes, arguments.gpus)


def _down(arguments: argparse.Namespace) -> None:
    _provider(arguments).down()


def _status(arguments: argparse.Namespace) -> int:
    return 0 if _provider(arguments).status() else 1


def _build(_: argparse.Namespace) -> None:
    folders = find_folders()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    is_node = _kind() is Kind.NODE
    if is_node:
        with exclusive(folders, "build"):
            install_missing(folders)
    images = order_ahead([*NODE_IMAGES, *_project_images()]) if is_node else []
    with ThreadPoolExecutor() as threads:
        # Compilers want all processors, and images mostly wait for downloads and the disk.
        works = [threads.submit(_build_programs, folders), threads.submit(build_ahead, folders, images)]
    for each in works:
        each.result()


def _build_programs(folders: Folders) -> None:
    for module in MODULES.values():
        ensure_programs(folders, module)


def _load(arguments: argparse.Namespace) -> None:
    _provider(arguments).load(arguments.names or _project_images())


def _push(arguments: argparse.Namespace) -> None:
    folders = find_folders()
    engine = Docker(folders) if is_installed("docker") and _kind() is not Kind.NODE else Podman(folders)
    for each in push_images(engine, arguments.names or _project_images(), arguments.registry):
        print(each)


def _project_images() -> list[str]:
    """The project's images, less those whose Dockerfile is not there."""
    return [name for name in PROJECT_IMAGES if IMAGES[name].exists()]


def _images(_: argparse.Namespace) -> None:
    for name, each in references().items():
        print(f"{name:12} {each}")


def _kubeconfig(arguments: argparse.Namespace) -> None:
    print(_provider(arguments).environment()["KUBECONFIG"])


def _environment(arguments: argparse.Namespace) -> None:
    for name, value in _provider(arguments).environment().items():
        print(f"export {name}={shlex.quote(value)}")


def _logs(arguments: argparse.Namespace) -> None:
    folder = find_folders().logs
    names = [arguments.daemon] if arguments.daemon else [*DAEMONS, "kwok"]
    paths = [path for name in names if (path := folder / f"{name}.log").exists()]
    if not paths:
        raise ClusterError(f"there are no logs in {folder}")
    os.execvp("tail", tail_arguments(paths, arguments.lines, follow=arguments.follow))


def tail_arguments(paths: Sequence[Path], lines: int, *, follow: bool) -> list[str]:
    """The command that prints the end of log files."""
    follow_words = ["-F"] if follow else []
    return ["tail", "-n", str(lines), *follow_words, *(str(path) for path in paths)]


def _kwok(arguments: argparse.Namespace) -> None:
    nodes = _fake_nodes(arguments)
    if arguments.action == "up":
        nodes.up(arguments.nodes, arguments.gpus)
    else:
        nodes.down()


def _fake_nodes(arguments: argparse.Namespace) -> FakeNodes:
    if _kind() is not Kind.NODE:
        raise ClusterError(NO_FAKE_NODES)
    return FakeNodes(_node(arguments))


if __name__ == "__main__":
    sys.exit(main())
