"""Text from outside where it is shown: no language that it is written into takes any of it for its own."""

import csv
import io
import logging
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from rich.table import Table

from fingerpost.abtest.drift.report import Limits, page, run_report
from fingerpost.features.definition import TARGETS
from fingerpost.logs import configure_logs
from fingerpost.shown import (
    csv_cell,
    markdown_name,
    markdown_text,
    matplotlib_label,
    plotly_label,
    rich_text,
    visible,
    visible_lines,
)

HOSTILE = (
    "GET /</script><script>document.title='ran'</script>|0|none",
    "GET /`<svg/onload=alert(2)>`",
    "GET /![x](http://evil.example/p.png)",
    "GET /[click](javascript:alert(3))",
    "GET /<a href='http://evil.example'>here</a>|<!--",
    "GET /\u2028\u2029\u202e\x1b[31m\x9b31m\r\n2026-01-01 INFO all is well",
    "GET /[red]a[/red]\\[bold] www.evil.example mail@evil.example <!channel> @everyone",
    "GET /$\\frac{1}{0}$ & &lt;",
    "",
)
ANY = st.text() | st.sampled_from(HOSTILE)


@given(ANY)
def test_what_is_visible_is_one_line_and_harmless_to_terminals(text):
    shown = visible(text)
    assert shown.isprintable()
    assert shown.splitlines() in ([shown], [])
    assert visible(shown) == shown
    assert len(visible_lines(f"a\n{text}").split("\n")) == 2 + text.count("\n")


def test_ordinary_text_stays_as_it_is():
    for text in ("POST /work/hash|1K|none|browser|DE", "GET /straße/東京|0", "0.31 of 5"):
        assert visible(text) == text == plotly_label(text) == matplotlib_label(text) == csv_cell(text)
    assert markdown_text("latency_p50_s drifted: distance 0.31 > 0.1") == "latency_p50_s drifted: distance 0.31 > 0.1"
    assert markdown_name("GET /a") == "`GET /a`"
    assert visible("a\x1b[31m\u202e\U000e0001") == "a\\x1b[31m\\u202e\\U000e0001"


@given(ANY)
def test_rich_obeys_nothing_of_a_name(text):
    output = io.StringIO()
    table = Table("name", show_edge=False)
    table.add_row(rich_text(f"begin{text}end"))
    console = Console(file=output, force_terminal=True, width=20_000, color_system="truecolor", highlight=False)
    console.print(table)
    row = next(line for line in output.getvalue().splitlines() if "begin" in line)
    assert visible(text) in row
    assert row.replace(visible(text), "").count("\x1b") == 0


def markdown_of(text):
    """The kinds of elements that a renderer makes of Markdown with tables, and the contents of code."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    every = [*tokens, *(child for token in tokens for child in token.children or ())]
    return [each.type for each in every], [each.content for each in every if each.type == "code_inline"]


@given(ANY, ANY)
def test_names_and_sentences_stay_in_their_cells(name, sentence):
    row = f"| {markdown_name(name)} | {markdown_text(sentence)} |"
    kinds, code = markdown_of(f"| name | why |\n|---|---|\n{row}\n\n- {markdown_name(name)}\n")
    assert kinds.count("td_open") == 2
    assert len(code) == 2
    assert code[0].strip() == code[1].strip()
    assert not {"link_open", "image", "html_inline", "html_block", "s_open"} & set(kinds)


@given(ANY)
def test_a_sentence_makes_no_links_pictures_or_tags(text):
    told = markdown_text(text)
    kinds, _ = markdown_of(f"It is so: {told}.")
    assert not {"link_open", "image", "html_inline", "html_block", "code_inline", "s_open"} & set(kinds)
    assert not any(part in told.lower() for part in ("://", "www.", "@", "<", "`"))


@given(ANY)
def test_matplotlib_and_spreadsheets_find_no_formula(text):
    from matplotlib import cbook

    assert not cbook.is_math_text(matplotlib_label(text))
    row = next(csv.reader(io.StringIO(pd.DataFrame({"name": [csv_cell(text)]}).to_csv(index=False, header=False))))
    assert not row or not row[0].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert csv_cell("=1+1") == "'=1+1"


def test_a_plain_log_line_stays_one(capsys):
    configure_logs("INFO", "plain")
    logging.getLogger("of.tests").warning("refused %s", HOSTILE[5])
    try:
        raise ValueError(HOSTILE[5])
    except ValueError:
        logging.getLogger("of.tests").exception("a flow failed")
    said = capsys.readouterr().err
    assert all(line.startswith("  ") for line in said.splitlines() if " of.tests: " not in line)
    assert not set("\x1b\x9b\r\u2028\u202e") & set(said)


def test_metrics_hold_names_as_they_are():
    from prometheus_client import CollectorRegistry, Gauge, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    registry = CollectorRegistry()
    gauge = Gauge("rate", "A rate.", ["category"], registry=registry)
    for name in HOSTILE:
        gauge.labels(name).set(1)
    [family] = text_string_to_metric_families(generate_latest(registry).decode())
    assert {sample.labels["category"] for sample in family.samples} == set(HOSTILE)


def test_what_flows_leave_holds_names_as_text():
    from fingerpost.abtest.drift.report import DataTest
    from fingerpost.abtest.drift.verdict import CellShift, DriftVerdict, shifts_in_words
    from fingerpost.features.build import FeaturesReport
    from fingerpost.flows import drift, features

    report = FeaturesReport(1, 1, 1, ["h1"], list(HOSTILE), "v1", "schema", "now", [], [], 0)
    kinds, code = markdown_of(features._markdown(report))
    assert len(code) == len(HOSTILE)
    assert kinds.count("list_item_open") == len(HOSTILE)

    shifts = [CellShift("h1", name, "throughput_rps", 0.3) for name in HOSTILE]
    reasons = [shifts_in_words(shifts, most=len(HOSTILE)), *(each.text() for each in shifts)]
    verdict = DriftVerdict("m", "1", "drift", reasons, {}, {}, tests=[DataTest("t", False, HOSTILE[2])])
    found, code = markdown_of(drift._markdown({"champion": verdict}))
    assert not code
    assert not {"link_open", "image", "html_inline", "html_block"} & {*kinds, *found}


class Elements(HTMLParser):
    """The scripts of a page, what else it is made of, and where its links and pictures lead."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.others, self.addresses = 0, set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.others.add(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        assert not any(name.startswith("on") for name, _ in attrs)


def report_of(names):
    """The drift report of two frames that differ by their categories."""
    rng = np.random.default_rng(1)

    def frame(chosen):
        count = 40 * len(chosen)
        columns = {
            **{"category": chosen * 40, "host": ["h1", "h2"] * (count // 2), "requests": [1] * count},
            **{"level_throughput_rps": rng.normal(size=count), "host_cpu_util": rng.random(count)},
            "host_inflight": rng.random(count),
        }
        for target in TARGETS:
            for kind in ("residual", "predicted", "actual", "forecast"):
                columns[f"{kind}_{target}"] = rng.normal(size=count)
        return pd.DataFrame(columns)

    limits = Limits(0.1, 10, 0.1, 0.1)
    return page(run_report(frame(names), frame(names[:2]), limits, "shop version 1", ["1"])[2])


@pytest.fixture(scope="module")
def hostile_report():
    return report_of(list(HOSTILE[:8]))


@pytest.mark.process
def test_the_drift_report_has_no_script_but_its_own(hostile_report):
    plain, hostile = Elements(report_of(["GET /a", "GET /b"])), Elements(hostile_report)
    assert hostile.scripts == plain.scripts
    assert hostile.others == plain.others
    assert "evil.example" in hostile_report  # the names are there, and harmless
    assert "<script>document.title" not in hostile_report
    assert "Content-Security-Policy" in hostile_report


@pytest.mark.process
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_a_browser_draws_the_drift_report_and_runs_nothing_else(hostile_report, tmp_path):
    (tmp_path / "report.html").write_text(hostile_report)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options = [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    address = (tmp_path / "report.html").as_uri()
    found = subprocess.run([*command, *options, address], capture_output=True, text=True, timeout=200, check=True)
    # The title is that of the page, and Plotly has drawn names as text.
    assert "<title>ran" not in found.stdout
    assert "js-plotly-plot" in found.stdout
    assert not any("evil" in str(each) or "script:" in str(each) for each in Elements(found.stdout).addresses)
