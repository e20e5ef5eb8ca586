"""A sweep whose driver is killed, at random and repeatedly, against one that is left alone."""

import random
import time

import pytest

# Everything else in a row follows from the config: these are the clock's and the machine's.
MEASURED = (
    "attempt, latency_ms, train_seconds, images_per_second, peak_memory_bytes, host, "
    "teacher_cache_hit_rate, started_at, ended_at"
)


ROWS = f"SELECT * EXCLUDE ({MEASURED}) FROM trials ORDER BY trial_id"
TWICE = "SELECT trial_id FROM trials_all WHERE status = 'completed' GROUP BY 1 HAVING count(*) > 1"


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_gives_the_same_table(
    start, study, kdsweep, tmp_path
):
    left_alone, killed = (["--results", str(tmp_path / name)] for name in ("alone", "killed"))
    driver = start("run", study("c"), *left_alone)
    assert driver.wait() == 0, driver.err
    expected = kdsweep("query", ROWS, "--csv", *left_alone)
    assert len(expected.splitlines()) == 1 + 8
    assert expected.count(",completed,") == 8

    seed = random.randrange(2**32)
    print(f"the moments of the kills follow from seed {seed}")
    moment = random.Random(seed)
    driver = start("run", study("c"), *killed)
    driver.wait_for("epoch 1/3")  # of the teacher
    driver.kill()
    for ended in (1, 2):
        driver = start("resume", "c", *killed)
        driver.wait_for(" trials  c-", ended)
        time.sleep(moment.uniform(0, 1.0))
        driver.kill()
        assert not [line for line in driver.out if "8/8" in line]
    driver = start("resume", "c", *killed)
    assert driver.wait() == 0, driver.err

    assert kdsweep("query", ROWS, "--csv", *killed) == expected
    tables = [kdsweep("table", "c", "--format", "csv", *folder) for folder in (left_alone, killed)]
    assert tables[0] == tables[1]
    assert kdsweep("query", TWICE, "--csv", *killed).split() == ["trial_id"]
