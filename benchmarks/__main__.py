"""Compare the app with its ceilings and a conventional app: `python -m benchmarks`.

A ceiling is a minimal app that only sends stored responses, or runs one SQL statement.

Requires wrk. Exits with status 1 if something can't be measured, but not if a target is
missed, because the results depend on the machine.
"""

import argparse
import json
import signal
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cases import Case, all_cases
from benchmarks.chart import chart
from benchmarks.databases import embedded_server, run_sql
from benchmarks.load import Load, LoadError, Measurement, measure, require_wrk
from benchmarks.preparation import (
    check_memory_ceiling,
    fetch_known,
    send_once,
    start_large,
    start_small,
)
from benchmarks.progress import say
from benchmarks.report import Machine, Results, as_json, outcome, table, this_machine
from benchmarks.servers import IS_PINNED, LOAD_CORE, ServerError, Servers, pin
from config import BASE_DIR
from embedded_postgres import EmbeddedPostgresError

VAR_DIR = BASE_DIR / "var"
WARM_UP_SECONDS = 0.2


def measure_once(servers: Servers, load: Load, *, seconds: float) -> Measurement | None:
    """Measure a load, or raise an error with the server's log if that fails."""
    try:
        measurement = measure(load, servers.urls[load.server], seconds=seconds)
    except LoadError as error:
        log = servers.log_end(load.server)
        raise ServerError(f"{load}: {error}\n{log}") from error
    servers.wait_until_idle(load.server)
    return measurement


def warm_up(servers: Servers, loads: Iterable[Load]) -> None:
    """Check the response to each load, and fill caches and connection pools."""
    for load in loads:
        send_once(servers, load)
        measure_once(servers, load, seconds=WARM_UP_SECONDS)


def measure_all(
    servers: Servers, loads: list[Load], *, rounds: int, seconds: float
) -> Results:
    """Measure each load once per round, and return the medians."""
    measured: dict[Load, list[Measurement]] = {load: [] for load in loads}
    number = 0
    for _ in range(rounds):
        for load in loads:
            number += 1
            measurement = measure_once(servers, load, seconds=seconds)
            if measurement is None:
                raise ServerError(f"{load}: no response within {seconds:g} seconds")
            measured[load].append(measurement)
            rate = f"{measurement.requests_per_second:,.0f}/s"
            say(f"[{number}/{rounds * len(loads)}] {load}: {rate}")
    return {load: median(measurements) for load, measurements in measured.items()}


def median(measurements: list[Measurement]) -> Measurement:
    return Measurement(
        statistics.median(each.requests_per_second for each in measurements),
        statistics.median(each.median_ms for each in measurements),
    )


def run(options: argparse.Namespace, folder: Path) -> None:
    """Start the servers, measure all cases, and report the results."""
    with embedded_server(folder) as admin, Servers(folder, admin) as servers:
        start_small(servers, admin)
        if not options.quick:
            start_large(servers, admin)
        check_memory_ceiling(servers)
        cases = all_cases(fetch_known(servers))
        loads = list(dict.fromkeys(load for case in cases for load in case.loads))
        say(f"Warming up for {len(loads)} measurements")
        warm_up(servers, loads)
        results = measure_all(
            servers, loads, rounds=options.rounds, seconds=options.seconds
        )
        machine = this_machine(postgresql=run_sql(admin, "SHOW server_version"))
    report(cases, results, machine, options)


def report(
    cases: list[Case], results: Results, machine: Machine, options: argparse.Namespace
) -> None:
    """Print the table, and write JSON and the chart."""
    outcomes = [outcome(case, results) for case in cases]
    figures = as_json(
        outcomes, results, machine, rounds=options.rounds, seconds=options.seconds
    )
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    options.chart.write_text(chart(results, machine))
    say(f"{table(outcomes)}\n\n{machine}\nWrote {options.json} and {options.chart}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="use only 10,000 posts")
    parser.add_argument("--rounds", type=int, help="number of times to measure a case")
    parser.add_argument("--seconds", type=float, help="duration of each measurement")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.seconds = options.seconds or (0.6 if options.quick else 1.5)
    # A quick run doesn't overwrite the results of a full run.
    options.json = VAR_DIR / "benchmark.json"
    options.chart = VAR_DIR / "benchmark.svg"
    if not options.quick:
        options.json = BASE_DIR / "benchmarks" / "results.json"
        options.chart = BASE_DIR / "docs" / "benchmark.svg"
    return options


def main() -> int:
    """Run the benchmark and return the exit status."""
    options = parse_options()
    require_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # PostgreSQL and wrk inherit the core of this process, which starts them.
    pin(0, LOAD_CORE)
    if not IS_PINNED:
        say("Servers and wrk share the cores, which makes the figures less precise")
    VAR_DIR.mkdir(exist_ok=True)
    try:
        with TemporaryDirectory(dir=VAR_DIR, prefix="benchmark-") as folder:
            run(options, Path(folder))
    except (EmbeddedPostgresError, LoadError, ServerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
