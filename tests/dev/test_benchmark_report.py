"""The page of figures: a section is replaced, the others stay."""

import pytest

from tests.benchmarks import releases, trainer
from tests.benchmarks.peers import Usage
from tests.benchmarks.report import Table, quantile, replace_section


def table(name: str, value: str) -> Table:
    return Table(name, name.title(), "About it.", ("what", "figure"), [("a", value)])


def test_a_section_is_replaced_and_the_others_stay() -> None:
    page = "# Figures\n"
    for each in (table("one", "1 ms"), table("two", "2 ms"), table("one", r"\g<0> 3 ms")):
        page = replace_section(page, each, "today")
    assert page.count("## One") == 1
    assert r"| a | \g<0> 3 ms |" in page
    assert "1 ms" not in page
    assert page.index("## One") < page.index("## Two")
    assert "python -m tests.benchmarks two" in page


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5), (0.9, 9), (0.99, 10), (0.01, 1), (1, 10)])
def test_quantiles_are_measured_values(share: float, expected: float) -> None:
    assert quantile(range(10, 0, -1), share) == expected


def test_the_trainer_s_table_says_what_it_ran_on() -> None:
    on_processor = {"device": "cpu", "hardware": "x86_64", "threads": 2}
    on_gpu = {"device": "cuda", "hardware": "NVIDIA L4", "threads": 8}
    assert [trainer.name_device(each) for each in (on_processor, on_gpu)] == ["x86_64 × 2", "NVIDIA L4"]


def test_the_trainer_s_page_is_measured_on_the_processor_wherever_it_is_measured() -> None:
    assert {config["device"] for config in trainer.CONFIGS.values()} == {"cpu"}


def test_several_runs_are_told_by_their_median_with_the_least_and_the_most() -> None:
    measured = ((30.0, 60.0, 20.0, 0.15), (50.0, 70.0, 19.0, 0.13), (31.0, 90.0, 21.0, 0.14))
    runs = [releases.Run(created, released, Usage(each, cpu, 1e8)) for created, released, each, cpu in measured]
    times = ["31.0 s (30.0–50.0)", "70.0 s (60.0–90.0)"]
    assert releases.render_runs(runs) == [*times, "20.0 (19.0–21.0)", "140 ms (130–150)", "100 MB (100–100)"]
    assert releases.render_runs(runs[:1]) == ["30.0 s", "60.0 s", "20.0", "150 ms", "100 MB"]
    assert releases.render_runs([releases.Run(1, 2, None)]) == ["1.0 s", "2.0 s", "–", "–", "–"]
