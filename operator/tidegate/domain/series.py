"""Numbers from the raw samples of counters: how much was counted in a window, and whether anybody still counts.

A window and what is read of one series (o: sample)::

    read from          start                                 end = now
       │  lookback       │               window               │
       o     o     o     o     o     o     o     o     o     o     known before the window: counts from its last sample
                              o     o     o     o     o     o      born in the window: counts from zero
       o     o     o     o                                         nobody counts any more: no data

A series that begins in the window was born there if what it tells of was, or if others were scraped just before it.
After an outage of Prometheus everything seems to begin, with all it ever counted: then a series counts from its first
sample.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from tidegate.domain.release import Measurement
from tidegate.domain.statistics import Proportion

__all__ = [
    "Parts",
    "Sample",
    "Series",
    "Window",
    "choose_bound",
    "count_share",
    "count_slow",
    "increase",
    "measure_quantile",
    "measure_rate",
    "measure_share",
    "proportion_of",
    "quantile",
    "share_of",
]

Sample = tuple[float, float]
"""Unix time in seconds, and value."""
Parts = tuple[float, float]
"""What is looked for, and everything that it is a part of, as counted in a window."""

MISSED_SCRAPES = 3
"""After so many scrapes without a sample the data are stale."""
USUAL_GAP = 15.0
"""Seconds between two scrapes where the samples do not tell."""


@dataclass(frozen=True, slots=True)
class Series:
    """One time series."""

    labels: Mapping[str, str]
    samples: Sequence[Sample]
    """Oldest first, at least one."""


@dataclass(frozen=True, slots=True)
class Window:
    """The series of one metric of one Deployment, all versions, over one window."""

    series: Sequence[Series]
    start: float
    """Unix time in seconds."""
    end: float
    is_whole: bool = False
    """Whether the Deployment itself is no older: then everything that it ever counted was counted in the window."""

    @property
    def gap(self) -> float:
        """Seconds between two scrapes."""
        gaps = [later[0] - earlier[0] for each in self.series for earlier, later in pairwise(each.samples)]
        return median(gaps) if gaps else USUAL_GAP

    def tells_before(self, lookback: float) -> bool:
        """Whether samples from so many seconds before the window on are enough to know what was there before it.

        They have to hold a few scrapes: one may be missed, and other series show that somebody was watching.
        """
        is_known = any(len(each.samples) > 1 for each in self.series)
        return is_known and (MISSED_SCRAPES + 1) * self.gap <= lookback

    def of(self, version: str | None, wanted: Callable[[Series], bool] = lambda _: True) -> list[Series]:
        """Return the series of one version; None: of all."""
        mine = (each for each in self.series if version in (None, each.labels.get("tidegate_version")))
        return [each for each in mine if wanted(each)]

    def is_fresh(self, series: Iterable[Series]) -> bool:
        """Whether one of these was scraped lately: no series, or only stale ones, means that nothing is known."""
        newest = max((each.samples[-1][0] for each in series), default=-math.inf)
        return newest >= self.end - MISSED_SCRAPES * self.gap - 1

    def count(self, series: Iterable[Series]) -> float:
        """Add up what these series counted in the window."""
        return sum(self._count_one(each) for each in series)

    def _count_one(self, series: Series) -> float:
        before = [sample for sample in series.samples if sample[0] <= self.start]
        inside = [sample for sample in series.samples if self.start < sample[0] <= self.end]
        if not inside:
            return 0.0
        if not before and (self.is_whole or self._was_watched(inside[0][0])):
            before = [(self.start, 0.0)]
        return increase([*before[-1:], *inside])

    def _was_watched(self, moment: float) -> bool:
        """Whether anything was scraped in the few scrapes before this moment."""
        earliest = moment - MISSED_SCRAPES * self.gap - 1
        return any(earliest <= at < moment - self.gap / 2 for each in self.series for at, _ in each.samples)


def measure_share(positive: Window, total: Window, version: str) -> Measurement:
    """Measure which share of everything that `total` counts is counted by `positive`."""
    return share_of(_count_parts(positive, total, version))


def count_share(positive: Window, total: Window, version: str) -> Proportion | None:
    """Count how many of everything that `total` counts are counted by `positive`."""
    return proportion_of(_count_parts(positive, total, version))


def share_of(counted: Parts | None) -> Measurement:
    """Return the share of a part in the whole; None: nobody counts any more; of nothing there is no share.

    >>> measured = share_of((1, 4))
    >>> (measured.value, measured.samples)
    (0.25, 4)
    """
    if counted is None:
        return Measurement()
    part, whole = counted
    if whole <= 0:
        return Measurement(samples=0)
    return Measurement(value=min(max(part / whole, 0.0), 1.0), samples=round(whole))


def proportion_of(counted: Parts | None) -> Proportion | None:
    """Return the counts themselves; None if nobody counts any more, and nothing counted is an empty proportion."""
    if counted is None:
        return None
    samples = round(counted[1])
    return Proportion(samples, min(round(counted[0]), samples))


def _count_parts(positive: Window, total: Window, version: str) -> Parts | None:
    everything = total.of(version)
    if not total.is_fresh(everything):
        return None
    return positive.count(positive.of(version)), total.count(everything)


def count_slow(window: Window, version: str, bound: float) -> Proportion | None:
    """Count how many answers took longer than `bound`, one of the histogram's, in milliseconds; None as above."""
    series = window.of(version)
    if not window.is_fresh(series):
        return None
    samples = round(window.count(_bucket(series, math.inf)))
    return Proportion(samples, samples - min(round(window.count(_bucket(series, bound))), samples))


def choose_bound(window: Window, version: str, share: float) -> float | None:
    """Return the bound of the histogram that is nearest at or above a quantile; of the last, open bucket the lower one.

    None without observations.
    """
    value = measure_quantile(window, version, share).value
    bounds = {float(each.labels["le"]) for each in window.of(version) if "le" in each.labels}
    return None if value is None else min((bound for bound in bounds if bound >= value), default=None)


def measure_rate(window: Window, version: str, wanted: Callable[[Series], bool] = lambda _: True) -> Measurement:
    """Measure how much the `wanted` series count per second; nothing counted is 0, nobody counting is no data."""
    series = window.of(version, wanted)
    if not window.is_fresh(series):
        return Measurement()
    counted = window.count(series)
    return Measurement(value=counted / max(window.end - window.start, 1e-3), samples=round(counted))


def measure_quantile(window: Window, version: str, share: float) -> Measurement:
    """Measure a quantile from the buckets of a histogram, all proxies together."""
    series = window.of(version)
    if not window.is_fresh(series):
        return Measurement()
    bounds = {float(each.labels["le"]) for each in series if "le" in each.labels}
    buckets = [(bound, window.count(_bucket(series, bound))) for bound in sorted(bounds)]
    samples = buckets[-1][1] if buckets else 0.0
    return Measurement(value=quantile(share, buckets), samples=round(samples))


def increase(samples: Iterable[Sample]) -> float:
    """Add up the differences of a counter; after a reset it starts again from zero.

    >>> increase([(0, 10), (1, 12), (2, 3)])
    5.0
    """
    return float(sum(b - a if b >= a else b for (_, a), (_, b) in pairwise(samples)))


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Return a quantile of cumulative buckets, interpolated within one; None without observations.

    A quantile in the last, open bucket is its lower bound: more is not known.

    Args:
        share: From 0 to 1.
        buckets: Upper bound and number of observations up to it, ascending; the last bound is infinite.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    wanted, below, lower = share * total, 0.0, 0.0
    for upper, count in buckets:
        if count >= wanted and count > below:
            if math.isinf(upper):
                return lower
            return lower + (upper - lower) * max(wanted - below, 0.0) / (count - below)
        below, lower = max(below, count), upper
    return lower


def _bucket(series: Iterable[Series], bound: float) -> list[Series]:
    return [each for each in series if "le" in each.labels and float(each.labels["le"]) == bound]
