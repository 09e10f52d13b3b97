"""The results, as a table for readers and as JSON for comparisons."""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Metric
from benchmarks.load import Load, Measurement
from benchmarks.servers import CORES, IS_PINNED

Results = Mapping[Load, Measurement]
"""The median of all rounds for each load."""

HIGHER_IS_BETTER = (Metric.SHARE, Metric.TIMES)


@dataclass(frozen=True)
class Machine:
    """Where and when the benchmark ran."""

    cpu: str
    cores: int
    pinned: bool
    python: str
    postgresql: str
    date: str

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, Python {self.python}, "
            f"PostgreSQL {self.postgresql}, {self.date}"
        )


def this_machine(postgresql: str) -> Machine:
    return Machine(
        cpu=cpu_model(),
        cores=len(CORES),
        pinned=IS_PINNED,
        python=platform.python_version(),
        postgresql=postgresql,
        date=datetime.now().astimezone().date().isoformat(),
    )


def cpu_model() -> str:
    """Return the CPU model if Linux reports it, or the architecture otherwise."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [
        line.partition(":")[2].strip()
        for line in lines
        if line.startswith("model name")
    ]
    return models[0] if models else platform.machine()


@dataclass(frozen=True)
class Outcome:
    """The result of a case."""

    case: Case
    value: float
    """Requests per second, or the median latency in milliseconds."""
    other: float | None
    """The same metric for the baseline, if the case has one."""

    @property
    def ratio(self) -> float:
        return self.value if self.other is None else self.value / self.other

    @property
    def is_met(self) -> bool | None:
        if self.case.target is None:
            return None
        if self.case.metric in HIGHER_IS_BETTER:
            return self.ratio >= self.case.target
        return self.ratio <= self.case.target

    def as_dict(self) -> dict[str, Any]:
        return {
            "group": self.case.group,
            "case": self.case.label,
            "metric": self.case.metric.value,
            "server": self.case.load.server,
            "value": round(self.value, 2),
            "compared_with": self.case.baseline and self.case.baseline.server,
            "other_value": self.other and round(self.other, 2),
            "ratio": round(self.ratio, 3),
            "target": self.case.target,
            "is_met": self.is_met,
        }


def outcome(case: Case, results: Results) -> Outcome:
    value, *others = [figure(case.metric, results[load]) for load in case.loads]
    return Outcome(case, value, others[0] if others else None)


def figure(metric: Metric, measurement: Measurement) -> float:
    if metric in HIGHER_IS_BETTER:
        return measurement.requests_per_second
    return measurement.median_ms


def as_json(
    outcomes: list[Outcome], results: Results, machine: Machine, **options: float
) -> dict[str, Any]:
    """Return all results, without the request headers, which contain a token."""
    return {
        "machine": asdict(machine),
        **options,
        "cases": [each.as_dict() for each in outcomes],
        "medians": [
            {
                "server": load.server,
                "method": load.method,
                "path": load.path,
                "encoding": load.encoding,
                "connections": load.connections,
                "status": load.status,
                "requests_per_second": round(measurement.requests_per_second, 1),
                "latency_ms": round(measurement.median_ms, 3),
            }
            for load, measurement in results.items()
        ],
    }


# The table


def table(outcomes: list[Outcome]) -> str:
    """Return a table of all cases, by group."""
    groups = dict.fromkeys(each.case.group for each in outcomes)
    return "\n".join(line for group in groups for line in group_lines(outcomes, group))


def group_lines(outcomes: list[Outcome], group: str) -> Iterator[str]:
    yield f"\n{group}"
    for each in outcomes:
        if each.case.group == group:
            yield row(each)


def row(each: Outcome) -> str:
    other = ""
    if each.case.baseline is not None and each.other is not None:
        server = each.case.baseline.server
        other = f"{server} {with_unit(each.case.metric, each.other)}"
    target = ""
    if each.case.target is not None:
        sign = ">=" if each.case.metric in HIGHER_IS_BETTER else "<="
        target = f"{sign} {as_ratio(each.case.metric, each.case.target)}"
    verdict = {None: "", True: "ok", False: "MISSED"}[each.is_met]
    value = with_unit(each.case.metric, each.value)
    ratio = as_ratio(each.case.metric, each.ratio)
    return (
        f"  {each.case.label:<26}{value:>12}  {other:<42}{ratio:>10}  "
        f"{target:<14}{verdict}"
    ).rstrip()


def with_unit(metric: Metric, value: float) -> str:
    return f"{value:,.0f}/s" if metric in HIGHER_IS_BETTER else f"{value:.2f} ms"


def as_ratio(metric: Metric, ratio: float) -> str:
    if metric is Metric.SHARE:
        return f"{ratio:.0%}"
    if metric is Metric.MILLISECONDS:
        return f"{ratio:.0f} ms"
    # Write "30 times" instead of "30.0 times".
    return f"{ratio:.3g} times"
