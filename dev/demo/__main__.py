"""``python -m dev.demo``: the whole chain on the local cluster, live in the terminal."""

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live

from dev import installation
from dev.demo import picture, screen, summary
from dev.demo.kube import Kube
from dev.demo.recorder import Recorder
from dev.demo.story import BAD, DEPLOYMENT, Story

CLEAN = [
    ("Deployment", "load", "apps/v1"),
    ("Job", "sabotage", "batch/v1"),
    ("Deployment", DEPLOYMENT, "tidegate.dev/v1alpha1"),
    ("TrainingJob", "connect4-small", "tidegate.dev/v1alpha1"),
    ("TrainingJob", "connect4-bigger", "tidegate.dev/v1alpha1"),
]


def clean(kube: Kube) -> None:
    """Remove what an earlier demo left, so that a second run begins like the first."""
    for kind, name, api_version in CLEAN:
        kube.delete(kind, name, api_version=api_version, propagationPolicy="Background")
    for version in kube.select("ModelVersion"):
        if version["spec"]["model"] == "connect4":
            kube.delete("ModelVersion", version["metadata"]["name"])
    for kind, name, api_version in CLEAN:
        kube.wait_gone(kind, name, timeout=90, api_version=api_version)


def tell(story: Story, recorder: Recorder) -> None:
    """Run the chapters in order."""
    story.train_first()
    story.release_first()
    story.start_load()
    recorder.start()
    story.train_bigger()
    story.make_bad_versions()
    for kind in BAD:
        story.release_bad(kind)
    story.back_to_good()


def watch(console: Console, draw: Callable[[], object], work: Callable[[], None], story: Story) -> None:
    """Run ``work`` and meanwhile show the live table, or plain lines where there is no terminal."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=run, name="story", daemon=True)
    worker.start()
    told = 0
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        while worker.is_alive():
            if console.is_terminal:
                live.update(draw())  # type: ignore[arg-type]  # rich's own type is wider than object
            else:
                for line in story.telling[told:]:
                    console.print(f"{time.strftime('%H:%M:%S')}  {line}", highlight=False, soft_wrap=True)
                told = len(story.telling)
            worker.join(timeout=0.5)
    if errors:
        raise errors[0]


def main() -> None:
    """Bring the cluster up, install, tell the story, sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder of the picture")
    parser.add_argument("--rate", type=float, default=40, help="requests a second")
    arguments = parser.parse_args()
    console = Console()
    begin = time.monotonic()
    installed = installation.install(console)
    kube = Kube(installed.kubeconfig)
    clean(kube)
    story = Story(kube, installed.images, arguments.rate)
    recorder = Recorder(kube, DEPLOYMENT)
    try:
        watch(
            console,
            lambda: screen.render(recorder.recording, story.telling),
            lambda: tell(story, recorder),
            story,
        )
    finally:
        if recorder.recording.samples:
            recorder.stop()
            summary.save(recorder.recording, story.telling, arguments.output / "demo.json")
            picture.draw(recorder.recording, arguments.output / "demo.png")
    summary.show(recorder.recording, story.telling, console)
    minutes, seconds = divmod(time.monotonic() - begin, 60)
    console.print(f"\nDone in {minutes:.0f} min {seconds:.0f} s. Picture: {arguments.output / 'demo.png'}")
    console.print(f"Look around: export KUBECONFIG={installed.kubeconfig}; kubectl get tidegate", soft_wrap=True)
    console.print("Stop the cluster: make down")


if __name__ == "__main__":
    main()
