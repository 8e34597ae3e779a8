"""The Prometheus sampler on endpoints that are served over HTTP."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.agent.sampling import SamplingError, Subject
from fingerpost.agent.sampling.exposition import Counters, parse_exposition
from fingerpost.agent.sampling.prometheus import PrometheusSampler
from tests.support.records import good_sample

SUBJECT = Subject("shop", "h1")
NODE = """\
# TYPE node_cpu_seconds_total counter
node_cpu_seconds_total{{cpu="0",mode="idle"}} 1000
node_cpu_seconds_total{{cpu="0",mode="iowait"}} 50
node_cpu_seconds_total{{cpu="0",mode="user"}} {user}
node_cpu_seconds_total{{cpu="1",mode="idle"}} 1000
node_cpu_seconds_total{{cpu="1",mode="system"}} 10
node_memory_MemTotal_bytes 8e+09
node_memory_MemAvailable_bytes 6e+09
node_load1 0.5
"""
CADVISOR = """\
container_cpu_usage_seconds_total{{container="shop",cpu="total",pod="a"}} {busy} {at}
container_cpu_usage_seconds_total{{container="shop",cpu="cpu00",pod="a"}} 7 {at}
container_cpu_usage_seconds_total{{container="other",cpu="total",pod="b"}} 7 {at}
container_memory_working_set_bytes{{container="shop",pod="a"}} 300 {at}
container_memory_working_set_bytes{{container="other",pod="b"}} 5 {at}
container_spec_cpu_period{{container="shop",pod="a"}} 100000
container_spec_cpu_quota{{container="shop",pod="a"}} 150000
container_spec_memory_limit_bytes{{container="shop",pod="a"}} 1000
container_spec_memory_limit_bytes{{container="other",pod="b"}} 0
machine_cpu_cores 8
machine_memory_bytes 64000
"""


@pytest.mark.process
def test_a_machine_by_node_exporter(endpoint):
    sampler = PrometheusSampler(SUBJECT, endpoint["url"])
    endpoint["status"] = 503
    with pytest.raises(SamplingError, match="503"):
        sampler.sample()
    endpoint.update(status=200, text=NODE.format(user=100))
    with pytest.raises(SamplingError, match="first reading"):
        sampler.sample()
    endpoint["text"] = NODE.format(user=100)
    assert good_sample(sampler.sample())["cpu_util"] == 0.0
    endpoint["text"] = NODE.format(user=200)
    row = good_sample(sampler.sample())
    assert (row["cpu_util"], row["cores"], row["mem_bytes"], row["mem_limit_bytes"]) == (1.0, 2.0, 2 * 10**9, 8 * 10**9)
    endpoint["text"] = NODE.format(user=0)  # the machine was started anew
    good_sample(sampler.sample())


@pytest.mark.process
def test_a_container_by_cadvisor_is_measured_by_its_own_clock(endpoint):
    sampler = PrometheusSampler(SUBJECT, endpoint["url"], {"container": "shop"})
    begin = 1_700_000_000_000

    def sample(busy, at):
        endpoint["text"] = CADVISOR.format(busy=busy, at=at)
        return good_sample(sampler.sample())

    with pytest.raises(SamplingError, match="first reading"):
        sample(10, begin)
    row = sample(16, begin + 10_000)
    assert (row["cores"], row["mem_limit_bytes"], row["mem_bytes"]) == (1.5, 1000, 300)
    assert row["cpu_util"] == pytest.approx(6 / 10 / 1.5)
    assert sample(16, begin + 10_000)["cpu_util"] == pytest.approx(6 / 10 / 1.5)  # nothing new yet
    assert sample(1.5, begin + 20_000)["cpu_util"] == pytest.approx(1.5 / 10 / 1.5)  # started anew
    sample(2, begin - 10**9)  # its clock was set back
    assert sample(5, begin - 10**9 + 10_000)["cpu_util"] == pytest.approx(3 / 10 / 1.5)


def test_a_container_without_limits_has_those_of_its_machine():
    text = CADVISOR.format(busy=1, at=1)
    reading = parse_exposition(text.splitlines(), {"container": "other"})
    assert (reading.cores, reading.mem_limit_bytes, reading.busy_s) == (8.0, 64000.0, 7.0)
    with pytest.raises(SamplingError, match="several"):
        parse_exposition(text.splitlines(), {"cpu": "total"})
    with pytest.raises(SamplingError, match="missing"):
        parse_exposition(text.splitlines(), {"container": "nobody"})


@pytest.mark.process
def test_limits_that_nobody_tells_must_be_given(endpoint):
    endpoint["text"] = "".join(
        line for line in CADVISOR.format(busy=1, at=1).splitlines(True) if "spec" not in line and "machine" not in line
    )
    with pytest.raises(SamplingError, match="no cores"):
        PrometheusSampler(SUBJECT, endpoint["url"], {"container": "shop"}).sample()
    with pytest.raises(SamplingError, match="first reading"):
        PrometheusSampler(Subject("shop", "h1", 2.0, 10**9), endpoint["url"], {"container": "shop"}).sample()


@pytest.mark.process
def test_an_endpoint_cannot_fill_or_stop_the_agent(endpoint):
    def endless_lines(out):
        while True:
            out.write(b"node_x 1\n" * 10_000)

    def drip(out):
        for _ in range(100):
            out.write(b"n")
            out.flush()
            time.sleep(0.05)

    for answer, message in (
        (endless_lines, "more than"),
        (lambda out: out.write(b"node_cpu_seconds_total 1\n" * 60_000), "more than 50000 lines"),
        (lambda out: out.write(b"x" * 10**6), "a line of more"),
        (drip, "did not answer"),
    ):
        endpoint["answer"] = answer
        with pytest.raises(SamplingError, match=message):
            PrometheusSampler(SUBJECT, endpoint["url"], timeout_s=0.5 if answer is drip else 30).sample()
    with pytest.raises(SamplingError, match="cannot fetch"):
        PrometheusSampler(SUBJECT, "http://127.0.0.1:1/metrics").sample()
    with pytest.raises(SamplingError, match="http"):
        PrometheusSampler(SUBJECT, "file:///etc/passwd")


@given(st.data(), st.sampled_from([NODE.format(user=5), CADVISOR.format(busy=5, at=1000)]), st.booleans())
def test_a_damaged_exposition_is_read_or_refused(data, text, container):
    damaged = list(text)
    for _ in range(data.draw(st.integers(0, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.characters())
    try:
        parse_exposition("".join(damaged).split("\n"), {"container": "shop"} if container else {})
    except SamplingError as error:
        assert str(error)


# --- counters that step back, containers that were restarted, and other forms of exposition


@pytest.mark.parametrize(
    ("before", "after", "grew"),
    [
        # Steal goes back a little after a migration; a core's counter a little before it is put in again.
        ({("0", "user"): 50_000.0, ("0", "steal"): 100.0}, {("0", "user"): 50_001.0, ("0", "steal"): 99.98}, 1.0),
        # A core was taken away, and one was put in.
        ({("0",): 500.0, ("1",): 400.0}, {("0",): 502.0}, 2.0),
        ({("0",): 500.0}, {("0",): 502.0, ("1",): 90_000.0}, 2.0),
        # Begun anew: what it shows was used since, if there was time for it.
        ({("0",): 500.0}, {("0",): 3.0}, 3.0),
        ({("0",): 500.0}, {("0",): 200.0}, 0.0),
        # Another container in its place.
        ({("aaa", "total"): 910.5}, {("bbb", "total"): 1.5}, 1.5),
        ({("aaa", "total"): 910.5}, {("bbb", "total"): 800.0}, 0.0),
        ({("0",): 500.0}, {("0",): float("nan")}, 0.0),
    ],
)
def test_each_counter_counts_by_itself(before, after, grew):
    counters = Counters()
    assert counters.add(before, 0.0) == 0.0
    assert counters.add(after, 20.0) == pytest.approx(grew)


@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]).map(lambda key: (key,)), st.floats(0, 1e6)), max_size=6)
)
def test_what_counters_grew_by_never_falls(readings):
    counters = Counters()
    totals = [counters.add(each, 10.0) for each in readings]
    assert totals == sorted(totals)


LIVES = """\
container_cpu_usage_seconds_total{container="shop",cpu="total",id="/p1/aaa",pod="shop-0"} 910.5 1795678400000
container_cpu_usage_seconds_total{container="shop",cpu="total",id="/p1/bbb",pod="shop-0"} 1.5 1795678424000
container_memory_working_set_bytes{container="shop",id="/p1/aaa",pod="shop-0"} 300 1795678400000
container_memory_working_set_bytes{container="shop",id="/p1/bbb",pod="shop-0"} 100 1795678424000
machine_cpu_cores 8
machine_memory_bytes 64000
"""


def test_of_a_container_that_was_restarted_the_newer_life_counts():
    reading = parse_exposition(LIVES.splitlines(), {"container": "shop"})
    assert (reading.busy_s, reading.mem_bytes, reading.measured_s) == (1.5, 100.0, 1_795_678_424.0)
    bare = [line.rpartition(" ")[0] if line.startswith("container") else line for line in LIVES.splitlines()]
    with pytest.raises(SamplingError, match="several containers"):
        parse_exposition(bare, {"container": "shop"})
    started = [
        'container_start_time_seconds{container="shop",id="/p1/aaa",pod="shop-0"} 1795678000',
        'container_start_time_seconds{container="shop",id="/p1/bbb",pod="shop-0"} 1795678422',
    ]
    assert parse_exposition([*bare, *started], {"container": "shop"}).busy_s == 1.5
    with pytest.raises(SamplingError, match="several containers: add"):
        parse_exposition(LIVES.replace('aaa",pod="shop-0', 'aaa",pod="shop-1').splitlines(), {"container": "shop"})


def test_times_in_seconds_exemplars_and_lines_that_are_there_twice():
    lines = [
        "# TYPE container_cpu_usage_seconds counter",
        'container_cpu_usage_seconds_total{container="shop",cpu="total",id="/a"} 15 1795678410.123 # {a="x"} 1 1.5',
        'container_cpu_usage_seconds_total{container="shop",cpu="total",id="/a"} 14 1795678400.123',
        'container_memory_working_set_bytes{container="shop",id="/a"} 300 1795678410.123',
        *("machine_cpu_cores 2", "machine_cpu_cores 2", "machine_memory_bytes 64000", "# EOF"),
    ]
    reading = parse_exposition(lines, {"container": "shop"})
    assert (reading.busy_s, reading.cores) == (15.0, 2.0)
    assert reading.measured_s == pytest.approx(1_795_678_410.123)


@pytest.mark.process
def test_openmetrics_are_measured_by_their_own_clock(endpoint):
    sampler = PrometheusSampler(SUBJECT, endpoint["url"], {"container": "shop"})
    text = LIVES.replace('id="/p1/aaa"', 'id="/p1/aaa",gone="1"')
    lines = [line for line in text.splitlines() if "aaa" not in line]
    endpoint["text"] = "\n".join(lines).replace("1795678424000", "1795678424.0")
    with pytest.raises(SamplingError, match="first reading"):
        sampler.sample()
    endpoint["text"] = "\n".join(lines).replace("1795678424000", "1795678434.0").replace(" 1.5 ", " 21.5 ")
    assert good_sample(sampler.sample())["cpu_util"] == pytest.approx(20 / 10 / 8)
