"""An arm is closed by what lands, for all engines of the store, and opened again where the other does as badly."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from fingerpost.agent.batches import write_batch
from fingerpost.clock import US, clock_us
from fingerpost.closed_arms import CLOSED, closed_now, closing, confirmed
from fingerpost.experiment import Experiment
from fingerpost.features.ingest import ingest
from fingerpost.features.outside import events_in_lake
from fingerpost.records import REQUEST_RECORD
from fingerpost.serving.arm_guard import ArmGuard
from fingerpost.serving.landing import Landing
from fingerpost.serving.outside import Events
from fingerpost.serving.store import Limits, ReportStore
from fingerpost.settings import Settings

pytestmark = pytest.mark.process

# Minutes ago: what is told in the time to come is refused.
NOW = clock_us() - 180 * US
RUNNING = Experiment("v1-v2-1", "shop", "1", "2", NOW - 120 * US, 30.0, 5.0, 50)
# The version that may do harm, and the other one.
NEW, OLD = "2", "1"


class Landed:
    """An engine's lake and store, where a test lands batches of records."""

    def __init__(self, home, experiment):
        self.settings = Settings(home=home, lake=home / "lake")
        self.store = ReportStore(f"sqlite:///{home / 'store.db'}", Limits(10, 10, US, US))
        self.experiment, self.batches = experiment, 0
        self.events = Events(self.store, Landing(self.settings.lake, 10**7), self.settings)
        self.guard = self.another()

    def another(self):
        """Another worker's."""
        models = SimpleNamespace(experiment=lambda _service: self.experiment)
        return ArmGuard(models, self.events, self.settings, lambda: ["shop"])

    def land(self, version, at_us, status=200, arm=None, count=150):
        """Writes a batch as agents do."""
        about = {"service": "shop", "host": "h1", "method": "GET", "route": "/", "arm": arm, "model_version": version}
        rest = {"bytes_in": 0, "bytes_out": 9, "auth": "none", "user_agent_class": "bot", "region": "none"}
        told = {**about, **rest, "status": status, "duration_s": 0.05, "policy": "fingerpost"}
        self.batches += 1
        rows = [{**told, "time": at_us + number} for number in range(count)]
        write_batch(self.settings.lake, "requests", REQUEST_RECORD, rows, f"h1-{self.batches:03}")

    def look(self, at_us):
        self.guard.look("shop", at_us)
        return ",".join(self.guard.closed("shop"))

    def ingested(self):
        """The closings in the lake."""
        ingest(self.settings.lake, "shop", 5, 30 * 86_400)
        return events_in_lake(self.settings.lake, "shop", (CLOSED,))


@pytest.fixture
def landed(tmp_path):
    made = Landed(tmp_path, RUNNING)
    yield made
    made.store.close()


def test_a_version_that_fails_is_closed_for_all_and_the_second_time_for_good(landed):
    landed.land(OLD, NOW - 60 * US)
    assert landed.look(NOW) == ""
    landed.land(NEW, NOW, status=503)
    assert landed.look(NOW + US) == "challenger"
    another = landed.another()
    another.look("shop", NOW + 2 * US)
    assert another.closed("shop") == ("challenger",)
    assert [each.kind for each in landed.events.closings("shop")] == [CLOSED]
    # What people ask for are events that people told.
    assert landed.events.listing("shop") == []
    assert landed.events.outside("shop").events == ()
    landed.land(OLD, NOW + 20 * US)
    # What was still on its way when it was closed is no news once it is open again.
    landed.land(NEW, NOW + 25 * US, status=503)
    assert landed.look(NOW + 27 * US) == "challenger"
    assert landed.look(NOW + 32 * US) == ""
    landed.land(NEW, NOW + 40 * US, status=503)
    assert landed.look(NOW + 41 * US) == "challenger"
    assert landed.look(NOW + 90 * US) == "challenger"
    told = landed.ingested()
    assert confirmed(told, RUNNING, NOW + 60 * US) is None
    assert "100% of 150 requests failed" in confirmed(told, RUNNING, NOW + 72 * US)
    assert confirmed(told, replace(RUNNING, id="v1-v2-2"), NOW + 90 * US) is None
    assert events_in_lake(landed.settings.lake, "shop") == []
    landed.experiment = None
    assert landed.look(NOW + 95 * US) == ""


def test_closings_that_lie_far_apart_or_are_told_at_once_are_not_for_good():
    later = [closing(RUNNING, "why", NOW + seconds * US) for seconds in (0, 2, 29, 300)]
    assert confirmed(later, RUNNING, NOW + 900 * US) is None
    assert not closed_now(later[:3], RUNNING, NOW + 200 * US)
    assert closed_now(later, RUNNING, NOW + 310 * US)
    assert confirmed([*later, closing(RUNNING, "again", NOW + 400 * US)], RUNNING, NOW + 900 * US) == "again"


def test_where_the_other_version_fails_as_well_the_arm_is_opened_again(landed):
    landed.land(OLD, NOW - 60 * US)
    landed.land(NEW, NOW, status=503)
    assert landed.look(NOW + US) == "challenger"
    landed.land(OLD, NOW + 15 * US, status=503)
    assert landed.look(NOW + 20 * US) == "challenger"
    assert landed.look(NOW + 27 * US) == ""
    # It is let alone for a while.
    landed.land(OLD, NOW + 30 * US)
    landed.land(NEW, NOW + 40 * US, status=503)
    assert landed.look(NOW + 41 * US) == ""
    assert confirmed(landed.ingested(), RUNNING, NOW + 90 * US) is None


def test_in_a_watch_it_is_the_champion_that_is_closed(landed):
    landed.experiment = replace(RUNNING, purpose="watch", champion=NEW, challenger=OLD)
    # Who does not tell the version is known by the arm, of the watch's time alone.
    landed.land(OLD, NOW - 60 * US)
    landed.land(None, NOW - 300 * US, status=503, arm="champion")
    assert landed.look(NOW) == ""
    landed.land(None, NOW, status=503, arm="champion")
    assert landed.look(NOW + US) == "champion"


def test_of_several_challengers_the_one_that_fails_is_closed(landed):
    landed.experiment = replace(RUNNING, others=("3",))
    landed.land(OLD, NOW - 60 * US)
    landed.land(NEW, NOW)
    landed.land("3", NOW, status=503)
    assert landed.look(NOW + US) == "challenger-2"
    told = landed.ingested()
    assert closed_now(told, landed.experiment, NOW + 2 * US, "challenger-2")
    assert not closed_now(told, landed.experiment, NOW + 2 * US)


def test_what_is_no_batch_and_what_no_version_routed_is_left_out(landed):
    landed.land(OLD, NOW - 60 * US)
    landed.land(None, NOW, status=503)
    landed.land("7", NOW, status=503)
    [folder] = (landed.settings.lake / "inbox" / "requests" / "service=shop").iterdir()
    (folder / "x.parquet").write_bytes(b"PAR1")
    assert landed.look(NOW + US) == ""
