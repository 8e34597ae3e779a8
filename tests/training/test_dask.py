"""Features, tuning and training on a cluster of two Dask workers: the same to the bit, also when some are killed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

import fingerpost.workers
from fingerpost.errors import FingerpostError
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.settings import Settings, get_settings
from fingerpost.training.candidate import make_candidate
from fingerpost.training.tune import TuningBudget, tune
from fingerpost.workers import SERIAL, THREADS, workers_of
from tests.support.lakes import SETTINGS as FEATURES
from tests.support.lakes import lake_of_days

GAP = pd.Timedelta(seconds=5)
TRIALS, JOBS = 4, 2
# A tuning that tells of each trial when it is done.
TUNE = """
import sys
from pathlib import Path
import pandas as pd
from fingerpost.features.build import load_training_rows
from fingerpost.training.tune import TuningBudget, tune
lake, storage, trials, jobs = sys.argv[1:]
rows = load_training_rows(Path(lake), "shop", 10**6)
budget = TuningBudget(int(trials), 600, storage, "fingerpost-shop", int(jobs))
# One write: two threads tell, and no line may come between another and its end.
tune(rows, pd.Timedelta(seconds=5), budget, progress=lambda *_: print("done\\n", end="", flush=True))
"""


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a user's own cluster of two processes, each of one thread."""
    processes = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "memory_limit": 0}
    folder = str(tmp_path_factory.mktemp("dask"))
    with LocalCluster(host="127.0.0.1", dashboard_address="127.0.0.1:0", local_directory=folder, **processes) as made:
        yield made.scheduler_address


@pytest.mark.process
def test_the_cluster_of_this_machine_takes_work_from_its_owner_alone(tmp_path):
    with workers_of(Settings(home=tmp_path, dask_workers=1), SERIAL) as workers:
        assert workers.size == 1
        assert workers.map(_twice, [3, 4], None) == [6, 8]
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


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.process
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


@pytest.mark.process
def test_training_by_setting_makes_the_same_model(rows, scheduler, tmp_path):
    settings = Settings(home=tmp_path, window_s=5, halflife_s=30, tuning_trials=2, tuning_jobs=1)
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


@pytest.mark.process
def test_a_worker_that_is_killed_changes_nothing(rows, distributed_settings):
    killed = []
    with workers_of(distributed_settings, THREADS) as workers:
        client = workers._client

        def kill_one(_number, _best):
            busy = [worker for worker, pieces in client.processing().items() if pieces]
            if busy and not killed:
                killed.append(client.run(os.getpid, workers=busy[:1])[busy[0]])
                os.kill(killed[0], signal.SIGKILL)

        found = tune(rows, GAP, TuningBudget(TRIALS, 600, jobs=JOBS), (), kill_one, workers)
        client.wait_for_workers(2, timeout=60)
        assert killed
        assert killed[0] not in client.run(os.getpid).values()
    assert len(found.history) == TRIALS
    # Trials are the same to the bit wherever they run: of the parameters that both began with, and of the best.
    alone = tune(rows, GAP, TuningBudget(2, 600), (found.params,), workers=SERIAL)
    assert alone.history[0] == found.history[0]
    assert min(alone.history) == found.value


def add_slowly(shared, item):
    number, folder = item
    time.sleep(0.2)
    (folder / str(number)).touch()
    return shared + number


@pytest.mark.process
def test_what_died_with_all_workers_is_sent_again(distributed_settings, tmp_path):
    with workers_of(distributed_settings, THREADS) as workers, ThreadPoolExecutor(1) as pool:
        results = pool.submit(workers.map, add_slowly, [(number, tmp_path) for number in range(8)], 100)
        while not any(tmp_path.iterdir()):
            time.sleep(0.02)
        for worker in workers._client.run(os.getpid).values():
            os.kill(worker, signal.SIGKILL)
        assert results.result() == [100 + number for number in range(8)]
        workers._client.wait_for_workers(2, timeout=60)


@pytest.mark.process
def test_a_tuning_that_was_killed_goes_on_where_it_was(rows, featured_lake, distributed_settings, tmp_path):
    storage = f"sqlite:///{tmp_path / 'tuning.db'}"
    command = [sys.executable, "-c", TUNE, str(featured_lake), storage, str(TRIALS), str(JOBS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout.readline() == "done\n"
        process.kill()

    def finished():
        [name] = optuna.get_all_study_names(storage)
        trials = optuna.load_study(study_name=name, storage=storage).trials
        return {each.number: (each.params, each.values) for each in trials if each.state.name in ("COMPLETE", "PRUNED")}

    kept = finished()
    assert 1 <= len(kept) < TRIALS
    numbers = []
    budget = TuningBudget(TRIALS, 600, storage, "fingerpost-shop", JOBS)
    with workers_of(distributed_settings, THREADS) as workers:
        found = tune(rows, GAP, budget, (), lambda number, _best: numbers.append(number), workers)
    assert len(numbers) == TRIALS - len(kept)
    assert max(numbers) == TRIALS - 1
    assert len(found.history) == len(finished()) == TRIALS
    assert kept.items() <= finished().items()
    # And once it is done, nothing is tried again.
    assert tune(rows, GAP, budget, (), lambda *_: numbers.clear()) == found
    assert numbers
    # Other rows, or other parameters to begin with, are another study.
    tune(rows.iloc[: len(rows) // 2], GAP, TuningBudget(1, 600, storage, "fingerpost-shop"))
    assert len(optuna.get_all_study_names(storage)) == 2


@pytest.mark.process
def test_what_waits_is_given_up_where_a_piece_fails(distributed_settings, tmp_path):
    for here in (distributed_settings, Settings(home=tmp_path)):
        folder = tmp_path / here.dask_address.replace("/", "-") / "done"
        folder.mkdir(parents=True)
        with workers_of(here, THREADS) as workers:
            with pytest.raises(FingerpostError, match="seven"):
                workers.map(fail_at_seven, range(200), folder)
            assert workers.map(lambda shared, item: shared + item, [1, 2, 3], 10) == [11, 12, 13]
            assert 1 <= len(list(folder.iterdir())) < 200


def fail_at_seven(folder, number):
    time.sleep(0.02)
    if number == 7:
        raise FingerpostError("seven")
    (folder / str(number)).touch()


@pytest.mark.process
def test_a_scheduler_that_does_not_answer_is_named(tmp_path, free_ports, monkeypatch):
    monkeypatch.setattr(fingerpost.workers, "_TIMEOUT_S", 1)
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


@pytest.mark.process
def test_workers_that_differ_are_refused(distributed_settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("distributed.versions.get_system_info", lambda: {"python": "3.9.0.final.0"})
        with (
            pytest.raises(FingerpostError, match=r"has python .*, here 3\.9"),
            workers_of(distributed_settings, THREADS),
        ):
            pass
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", lambda _path: None)
        with pytest.raises(FingerpostError, match="does not see"):
            workers_of(distributed_settings, THREADS).__enter__()


@pytest.mark.process
def test_dask_is_imported_only_where_it_is_asked_for():
    code = (
        "import sys, fingerpost.cli, fingerpost.workers as w; from fingerpost.settings import Settings\n"
        "with w.workers_of(Settings(), w.SERIAL) as found:\n"
        "    assert found.map(lambda a, b: a + b, [1, 2], 1) == [2, 3]\n"
        "assert not {'dask', 'distributed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
