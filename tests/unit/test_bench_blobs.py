"""The blob bench's arithmetic, and the clock that it reads."""

import os
import time
from statistics import median

from bench.blob_table import table
from bench.blobs import figures_of_round, ratios_of
from bench.processor_time import Stopwatch, processor_s, watched_from

SPENT = {"wall": 10.0, "own": 8.0, "server": 0.1, "broker": 2.0}
BARE = {"wall": 5.0, "own": 4.0, "server": 0.1, "broker": 1.0}
ROUND = {"devices": {"filled": SPENT, "sealed": {**SPENT, "wall": 20.0}}, "subscribers": BARE}
HASHING = {"chunks": 0.2, "image": 0.1}
MEGABYTES = 40.0


def test_the_clock_of_a_process_is_the_one_that_the_process_reads_itself() -> None:
    before = time.process_time()
    read = processor_s(os.getpid())

    assert before <= read <= time.process_time()


def test_a_stopwatch_tells_the_seconds_since_its_start() -> None:
    watch = Stopwatch(watched_from([f"self={os.getpid()}"]))
    watch.start()
    sum(range(1000))
    read = watch.read()

    assert read.keys() == {"wall", "own", "self"}
    assert 0 < read["own"] <= read["wall"]


def test_hashing_that_anybody_would_do_is_not_the_fetchers_own_time() -> None:
    figures = figures_of_round(MEGABYTES, 20, ROUND, HASHING)

    assert figures["devices_mb_per_s"] == MEGABYTES / 10
    assert figures["devices_mb_per_cpu_s"] == MEGABYTES / (8 - 20 * 0.2)
    assert figures["sealed_mb_per_s"] == MEGABYTES / 20
    assert figures["bare_mb_per_cpu_s"] == MEGABYTES / 4


def test_a_ratio_is_the_median_of_its_rounds_ratios() -> None:
    slower = {**ROUND, "subscribers": {**BARE, "wall": 1.0}}
    faster = {**ROUND, "subscribers": {**BARE, "wall": 20.0}}
    rounds = [figures_of_round(MEGABYTES, 20, one, HASHING) for one in (slower, faster, ROUND)]

    assert ratios_of({"nats": {"rounds": rounds}})["delivered_nats"] == median([1 / 10, 20 / 10, 5 / 10])


def test_the_table_has_a_column_for_each_broker_that_was_measured() -> None:
    figures = figures_of_round(MEGABYTES, 20, ROUND, HASHING)
    cost = {"devices": 1, "delivered_gb": 1, "seconds": 9, "server_s": 0.1, "idle_s": 0.1, "s_per_gb": 0}
    nats = {
        **figures,
        "rounds": [figures],
        "chunk_server_mb_per_s": 30.0,
        "chunk_server_s_per_gb": 4.0,
        "server": [{**cost, "ms_per_device": 0}],
    }
    conditions = {"devices": 20, "image_bytes": 1 << 20, "pairs": 1, "cores": 2, "load_average": [0.5]}
    made = table({"figures": {**conditions, "nats": nats}, "ratios": ratios_of({"nats": nats})})

    assert "| | nats-server |" in made
    assert "| **devices by bare subscribers** | **0.50** |" in made
