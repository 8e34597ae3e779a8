"""Features, tuning and training on a cluster of two Dask workers: the same to the bit, also when some are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

import fingerpost.cluster
from fingerpost.errors import FingerpostError
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.settings import Settings, get_settings
from fingerpost.training.candidate import make_candidate
from fingerpost.training.study import Study, next_params
from fingerpost.training.trials import Outcome
from fingerpost.training.tune import TuningBudget, tune
from fingerpost.workers import SERIAL, THREADS, workers_of
from tests.features.test_incremental import SETTINGS as FEATURES
from tests.features.test_incremental import lake_of_days
from tests.support.postgres import running_postgres

GAP = pd.Timedelta(seconds=5)
TRIALS, BATCH = 4, 2
# A tuning that tells of each trial when it is kept.
TUNE = """
import sys
from pathlib import Path
import pandas as pd
from fingerpost.features.build import load_training_rows
from fingerpost.training.tune import TuningBudget, tune
lake, storage, trials, batch = sys.argv[1:]
rows = load_training_rows(Path(lake), "shop", 10**6)
budget = TuningBudget(int(trials), 600, storage, "fingerpost-shop", int(batch))
tune(rows, pd.Timedelta(seconds=5), budget, progress=lambda *_: print("kept", flush=True))
"""


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a user's own cluster of two processes, each of one thread."""
    processes = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "memory_limit": 0}
    folder = str(tmp_path_factory.mktemp("dask"))
    with LocalCluster(host="127.0.0.1", dashboard_address="127.0.0.1:0", local_directory=folder, **processes) as made:
        yield made.scheduler_address


def test_the_cluster_of_this_machine_takes_work_from_its_owner_alone(tmp_path):
    with workers_of(Settings(home=tmp_path, dask_workers=1), SERIAL) as workers:
        assert sorted(result for _, result in workers.map_unordered(_twice, [3, 4], None)) == [6, 8]
        address = workers._client.scheduler.address
        [worker] = workers._client.scheduler_info()["workers"]
        assert address.startswith("tls://127.0.0.1:")
        for place in (address, worker):
            stranger = Security(tls_ca_file=None, require_encryption=False)
            with pytest.raises((OSError, TimeoutError)):
                Client(place.replace("tls://", "tcp://"), timeout=3, security=stranger, set_as_default=False)
        # Keys of their own are not ours.
        with pytest.raises((OSError, TimeoutError)):
            Client(address, timeout=3, security=Security.temporary(), set_as_default=False)


def _twice(_shared, item):
    return 2 * item


@pytest.fixture
def distributed_settings(scheduler, tmp_path):
    return Settings(home=tmp_path, dask_address=scheduler)


@pytest.fixture(scope="module")
def rows(featured_lake):
    return load_training_rows(featured_lake, "shop", 10**6)


@pytest.fixture(scope="module")
def alone(rows):
    """What a tuning finds that nobody disturbs, one trial after the other."""
    return tune(rows, GAP, TuningBudget(TRIALS, 600, batch=BATCH), workers=SERIAL)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_features_are_the_same_files(distributed_settings, tmp_path):
    lake_of_days(tmp_path / "lake")
    build_features(tmp_path / "lake", "shop", FEATURES, tmp_path / "alone")
    with workers_of(distributed_settings, SERIAL) as workers:
        report = build_features(tmp_path / "lake", "shop", FEATURES, tmp_path / "cluster", workers)
        assert len(report.dates_made) == 4
        again = build_features(tmp_path / "lake", "shop", FEATURES, tmp_path / "cluster", workers)
        assert again.dates_made == []
    found = files_of(tmp_path / "cluster")
    assert len(found) > 20
    assert found == files_of(tmp_path / "alone")


def test_training_by_setting_makes_the_same_model(rows, scheduler, tmp_path):
    settings = Settings(home=tmp_path, window_s=5, halflife_s=30, tuning_trials=2)
    expected = make_candidate(rows, settings)
    found = make_candidate(rows, settings.model_copy(update={"dask_address": scheduler}))
    assert found.tuning == expected.tuning
    expected.bundle.save(tmp_path / "expected")
    found.bundle.save(tmp_path / "found")
    assert len(files_of(tmp_path / "found")) == 4
    assert files_of(tmp_path / "found") == files_of(tmp_path / "expected")
    for target, logs in expected.bundle.predict_log(expected.test).items():
        assert np.array_equal(found.bundle.predict_log(expected.test)[target], logs)
    assert found.scores == expected.scores


def test_a_worker_that_is_killed_changes_nothing(alone, rows, distributed_settings):
    killed = []
    with workers_of(distributed_settings, THREADS) as workers:
        client = workers._client

        def kill_one(_number, _best):
            busy = [worker for worker, pieces in client.processing().items() if pieces]
            if busy and not killed:
                killed.append(client.run(os.getpid, workers=busy[:1])[busy[0]])
                os.kill(killed[0], signal.SIGKILL)

        found = tune(rows, GAP, TuningBudget(TRIALS, 600, batch=BATCH), (), kill_one, workers)
        client.wait_for_workers(2, timeout=60)
        assert killed[0] not in client.run(os.getpid).values()
    assert found == alone


def add_slowly(shared, item):
    time.sleep(0.2)
    return shared + item


def test_what_died_with_all_workers_is_sent_again(distributed_settings):
    found = {}
    with workers_of(distributed_settings, THREADS) as workers:
        for place, result in workers.map_unordered(add_slowly, range(8), 100):
            if not found:
                for worker in workers._client.run(os.getpid).values():
                    os.kill(worker, signal.SIGKILL)
            found[place] = result
        workers._client.wait_for_workers(2, timeout=60)
    assert found == {number: 100 + number for number in range(8)}


def test_a_tuning_that_was_killed_goes_on_to_the_same_end(alone, rows, featured_lake, distributed_settings, tmp_path):
    storage = f"sqlite:///{tmp_path / 'tuning.db'}"
    command = [sys.executable, "-c", TUNE, str(featured_lake), storage, str(TRIALS), str(BATCH)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        for _ in range(BATCH + 1):
            assert process.stdout.readline() == "kept\n"
        process.kill()
    [name] = optuna.get_all_study_names(storage)
    kept = len(optuna.load_study(study_name=name, storage=storage).trials)
    assert BATCH < kept <= TRIALS
    tried = []
    budget = TuningBudget(TRIALS, 600, storage, "fingerpost-shop", BATCH)
    with workers_of(distributed_settings, THREADS) as workers:
        assert tune(rows, GAP, budget, (), lambda number, _best: tried.append(number), workers) == alone
    assert tried == list(range(kept, TRIALS))
    # And once it is done, nothing is tried again.
    assert tune(rows, GAP, budget, (), lambda *_: tried.clear()) == alone
    assert len(tried) == TRIALS - kept
    # Other rows, or other parameters to begin with, are another study.
    assert tune(rows.iloc[: len(rows) // 2], GAP, TuningBudget(1, 600, storage, "fingerpost-shop", BATCH)) != alone
    assert len(optuna.get_all_study_names(storage)) == 2


def test_old_studies_go(tmp_path):
    storage = f"sqlite:///{tmp_path / 'tuning.db'}"
    Study(storage, "fingerpost-shop-eu", "0")
    for number in range(5):
        Study(storage, "fingerpost-shop", str(number))
    kept = sorted(optuna.get_all_study_names(storage))
    assert kept == ["fingerpost-shop-eu@0", *(f"fingerpost-shop@{number}" for number in (2, 3, 4))]


def test_a_batch_is_drawn_the_same_whoever_asks():
    first = next_params({}, range(4), [{"num_leaves": 7}])
    assert first[0]["num_leaves"] == 7
    assert next_params({}, range(2), [{"num_leaves": 7}]) == first[:2]
    finished: dict[int, Outcome] = {}
    while len(finished) < 16:
        numbers = range(len(finished), len(finished) + 4)
        drawn = next_params(finished, numbers, [])
        assert len({each["learning_rate"] for each in drawn}) == 4
        # What is known of the batch already does not change what is drawn.
        known = {numbers[2]: Outcome(drawn[2], [0.1], False)}
        assert next_params({**finished, **known}, numbers, []) == drawn
        finished |= {n: Outcome(each, [each["num_leaves"] / 32], False) for n, each in zip(numbers, drawn, strict=True)}


def wait_and_tell(folder, number):
    time.sleep(0.2)
    (folder / str(number)).touch()


def test_what_nobody_waits_for_is_given_up(distributed_settings, tmp_path):
    folder = tmp_path / "done"
    folder.mkdir()
    with workers_of(distributed_settings, SERIAL) as workers:
        results = workers.map_unordered(wait_and_tell, range(40), folder)
        next(results)
        results.close()
        assert workers.map(lambda shared, item: shared + item, [1, 2, 3], 10) == [11, 12, 13]
        done = len(list(folder.iterdir()))
        assert 1 <= done < 40
        with pytest.raises(FingerpostError, match="seven"):
            workers.map(fail_at_seven, range(20), "seven")


def fail_at_seven(text, number):
    if number == 7:
        raise FingerpostError(text)


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, free_ports, monkeypatch):
    monkeypatch.setattr(fingerpost.cluster, "_TIMEOUT_S", 1)
    address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    settings = Settings(home=tmp_path, dask_address=address)
    with (
        pytest.raises(FingerpostError, match=f"FINGERPOST_DASK_ADDRESS={address}: no Dask scheduler answers"),
        workers_of(settings, SERIAL),
    ):
        pass


def test_an_address_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("FINGERPOST_DASK_ADDRESS", "localhost:8786")
    get_settings.cache_clear()
    with pytest.raises(FingerpostError, match=r"FINGERPOST_DASK_ADDRESS='localhost:8786'.*tcp://"):
        get_settings()
    get_settings.cache_clear()


def test_workers_that_differ_are_refused(distributed_settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("platform.python_version_tuple", lambda: ("3", "9", "0"))
        with (
            pytest.raises(FingerpostError, match=r"has python .*, here 3\.9"),
            workers_of(distributed_settings, THREADS),
        ):
            pass
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", lambda _path: None)
        with pytest.raises(FingerpostError, match="does not see"):
            workers_of(distributed_settings, THREADS).__enter__()


def test_dask_is_imported_only_where_it_is_asked_for():
    code = (
        "import sys, fingerpost.cli, fingerpost.workers as w; from fingerpost.settings import Settings\n"
        "with w.workers_of(Settings(), w.ONE_BY_ONE) as found:\n"
        "    assert found.map(lambda a, b: a + b, [1, 2], 1) == [2, 3]\n"
        "assert not {'dask', 'distributed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def trials_come_back(storage):
    drawn = next_params({}, range(2), [])
    outcomes = {1: Outcome(drawn[1], [1 / 3, 0.1 + 0.2], False), 0: Outcome(drawn[0], [2 / 3], True)}
    for number, outcome in outcomes.items():
        Study(storage, "fingerpost-shop", "0").keep(number, outcome)
    assert Study(storage, "fingerpost-shop", "0").finished() == outcomes
    assert Study(storage, "fingerpost-shop", "1").finished() == {}


def test_trials_come_back_to_the_bit_from_sqlite(tmp_path):
    trials_come_back(f"sqlite:///{tmp_path / 'tuning.db'}")


def test_trials_come_back_to_the_bit_from_postgresql(tmp_path, free_ports):
    with running_postgres(tmp_path / "postgres", free_ports(1)[0]) as server:
        trials_come_back(server.url)
