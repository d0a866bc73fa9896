"""``python -m tests.benchmarks [NAME …]``: measures on the local cluster and writes ``docs/benchmarks.md``.

With names, only those are measured and only their sections are written anew.
"""

import argparse
import os

from rich.console import Console

from dev import installation
from dev.demo.kube import Kube
from tests.benchmarks import cold_start, control_plane, releases, rollback, scale, serving_latency, trainer
from tests.benchmarks.bench import Bench
from tests.benchmarks.report import PAGE, Table, describe_machine, replace_section
from tests.e2e import artifacts

ON_CLUSTER = {
    **{module.NAME: module.measure for module in (cold_start, serving_latency, rollback, control_plane, releases)},
    releases.LIFTED: releases.measure_lifted,
    scale.NAME: scale.measure,
}
NAMES = [*ON_CLUSTER, trainer.NAME]


def main() -> None:
    """Measure one after the other; nothing else should run on the machine meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; default: all")
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if trainer.NAME in names:
        write(trainer.measure())
    if not set(names) & ON_CLUSTER.keys():
        return
    running = installation.is_running()
    installed = installation.install(Console())
    bench = Bench(installed, Kube(installed.kubeconfig), artifacts.store(installed, artifacts.all_files()))
    try:
        for name in [each for each in names if each in ON_CLUSTER]:
            print(f"==> {name}", flush=True)
            write(ON_CLUSTER[name](bench))
    finally:
        if not running and not os.environ.get("TIDEGATE_KEEP_CLUSTER"):
            installation.cluster("down")


def write(table: Table) -> None:
    """Print a table and put it onto the page."""
    print(table.to_markdown(), "\n", flush=True)
    PAGE.write_text(replace_section(PAGE.read_text(), table, describe_machine()))


if __name__ == "__main__":
    main()
