"""Figures that a look elsewhere gives, all at once: shown as they were last told, absent while nothing is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Figures = Mapping[str, Mapping[str, float]]
"""Name → value of its label → figure; the label's value is empty where it has none."""


@dataclass(frozen=True)
class Figure:
    """What is told of one."""

    text: str
    label: str | None = None
    is_counter: bool = False
    """Whether it only grows."""


class Told(Collector):
    """A scrape finds what is in memory and waits for nobody."""

    def __init__(self, prefix: str, figures: Mapping[str, Figure], registry: CollectorRegistry) -> None:
        self._prefix, self._known = prefix, figures
        self._told: Figures = {}
        registry.register(self)

    def tell(self, figures: Figures) -> None:
        """These and no others are known from now on."""
        assert figures.keys() <= self._known.keys(), f"{figures.keys() - self._known.keys()} have no instrument"
        self._told = figures

    def describe(self) -> list[Metric]:
        """Without values: the registry asks for the names."""
        return [self._family(name, {}) for name in self._known]

    def collect(self) -> list[Metric]:
        """With values."""
        told = self._told
        return [self._family(name, told.get(name, {})) for name in self._known]

    def _family(self, name: str, values: Mapping[str, float]) -> Metric:
        known = self._known[name]
        family = CounterMetricFamily if known.is_counter else GaugeMetricFamily
        labels = () if known.label is None else (known.label,)
        metric = family(f"{self._prefix}_{name}", known.text, labels=labels)
        for label, value in values.items():
            metric.add_metric((label,) if labels else (), value)
        return metric
