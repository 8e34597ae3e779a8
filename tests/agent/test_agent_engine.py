"""An agent and the real engine, which is killed while the agent reports."""

import re
import time

import httpx
import pytest

from tests.support.agent_harness import get, is_up, running_agent
from tests.support.engine_harness import RunningEngine
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def metric(port, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", get(port, "/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def made_and_accepted(port):
    made = metric(port, 'fingerpost_agent_events_total{event="window_reports"}')
    return made, metric(port, 'fingerpost_agent_sent_total{what="accepted"}')


def test_killing_the_engine_loses_no_report(tmp_path, free_ports):
    engine_port, port = free_ports(2)
    with (
        RunningEngine(tmp_path / "engine", engine_port) as engine,
        running_agent(tmp_path / "agent", "--engine-url", engine.url, "--http-port", str(port)),
    ):
        wait_for(lambda: is_up(port))
        wait_for(lambda: made_and_accepted(port)[1] >= 3)
        engine.kill()
        time.sleep(5)
        made, accepted = made_and_accepted(port)
        assert made > accepted
        assert metric(port, "fingerpost_agent_spool_waiting") >= 5
        engine.start()
        wait_for(lambda: made_and_accepted(port)[1] > made, 90)
        wait_for(lambda: metric(port, "fingerpost_agent_spool_waiting") <= 1, 30)
        assert metric(port, "fingerpost_agent_spool_dropped") == 0
        # Stale is what the engine had taken already when its answer came too late.
        stale = metric(port, 'fingerpost_agent_sent_total{what="stale"}')
        assert made_and_accepted(port)[1] + stale >= made
        assert metric(port, 'fingerpost_agent_sent_total{what="refused"}') == 0
        hosts = httpx.get(f"{engine.url}/v1/hosts", params={"service": "shop"}, trust_env=False).json()
    assert "h1" in str(hosts)
