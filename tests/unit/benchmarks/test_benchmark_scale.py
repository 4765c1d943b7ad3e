"""The scale curves: shapes out of figures, reports out of points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.scale import main
from benchmarks.scale_curves import CURVES
from benchmarks.scale_measure import _BODIES, MEASURES
from benchmarks.scale_report import (
    LABELS,
    Point,
    Results,
    as_json,
    as_text,
    is_as_it_should_be,
    progress,
    read_points,
    renumbered,
    shape_of,
)
from benchmarks.scale_servers import COMMANDS, Budget, scalable, with_budget
from benchmarks.scale_shape import FLAT, LESS, LINEAR, TOO_SHORT, WORSE, Curve, Shape, shape
from benchmarks.scenarios import Scenario
from benchmarks.servers import OURS

HEADERS = next(curve for curve in CURVES if curve.name == "headers")
IDLE = next(curve for curve in CURVES if curve.name == "idle")


@pytest.mark.parametrize(
    ("costs", "name"),
    [
        ([10.0, 10.5, 9.8, 12.0], FLAT),
        ([10.0, 10.1, 12.0, 30.0], LINEAR),  # 10 + 0.02 for each beyond the first
        ([10.0, 19.0, 109.0, 1009.0], LINEAR),
        ([10.0, 11.0, 20.0, 2000.0], WORSE),
        ([10.0, 12.0, 30.0, 40.0], LESS),
        ([20.0, 15.0, 12.0, 10.0], LESS),  # which is what falls, too
    ],
)
def test_shape_of_costs_over_four_decades(costs: Sequence[float], name: str) -> None:
    sizes = (1.0, 10.0, 100.0, 1000.0)
    assert shape(list(zip(sizes, costs, strict=True))).name == name


def test_a_square_is_worse_than_linear() -> None:
    curve = [(float(n), 5.0 + n * n) for n in (1, 2, 4, 8, 16, 32)]
    assert shape(curve).name == WORSE


def test_a_fixed_cost_does_not_hide_a_square() -> None:
    curve = [(float(n), 100.0 + n * n) for n in (1, 3, 10, 30, 100)]
    assert shape(curve).name == WORSE


def test_the_numbers_of_a_shape() -> None:
    seen = shape([(0, 10.0), (10, 20.0), (100, 110.0), (1000, 1510.0)])
    assert seen == Shape(LINEAR, 151.0, 1.5)


def test_only_the_upper_half_is_looked_at_for_a_unit() -> None:
    assert shape([(0, 10.0), (1, 30.0), (100, 110.0), (1000, 1010.0)]).unit_spread == 1.0


def test_factors_can_be_given() -> None:
    curve: Curve = [(1, 10.0), (2, 14.0)]
    assert shape(curve).name == TOO_SHORT
    assert shape(curve, flat_factor=1.5).name == FLAT


def test_one_point_has_no_shape() -> None:
    assert shape([(1, 5.0)]) == Shape(TOO_SHORT, 1.0, 0.0)


def test_a_cost_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive"):
        shape([(1, 5.0), (2, 0.0)])


# -- the table of curves ----------------------------------------------------------------------


def test_every_curve_can_be_measured_probed_and_labelled() -> None:
    for curve in CURVES:
        assert curve.kind in MEASURES
        assert curve.app in _BODIES
        assert list(curve.sizes) == sorted(set(curve.sizes))
        assert {curve.figure, *curve.others} <= LABELS.keys()
    assert len({curve.name for curve in CURVES}) == len(CURVES)


def test_up_to_leaves_out_what_is_larger() -> None:
    assert IDLE.up_to(1000).sizes == (10, 100, 1000)


# -- servers ----------------------------------------------------------------------------------


def test_every_server_gets_the_application_and_its_budget() -> None:
    scenario = Scenario("scale", "", "some.module:app", b"")
    assert {server.name for server in scalable()} == set(COMMANDS)
    for server in scalable():
        words = with_budget(server, Budget(4, 17, 9_000)).argv(4711, scenario)
        assert "some.module:app" in words
        assert any("4711" in word for word in words)
        if server.has_threads:
            assert any("17" in word for word in words)
            assert words != with_budget(server, Budget(4, 17)).argv(4711, scenario)


# -- points and reports -----------------------------------------------------------------------


def line(server: str, *costs: float, curve: str = "headers", number: int = 1) -> list[Point]:
    return [
        Point(curve, size, number, server, {"cpu_us": cost, "rate": 1e6 / cost})
        for size, cost in zip((1, 3, 10, 30, 100), costs, strict=False)
    ]


def results(*points: Point) -> Results:
    machine = {"commit": "abc1234", "cpu": "a processor", "cores": 2}
    return Results("2026-01-02T03:04:05+00:00", machine, 2.0, {"bjoern": "not there"}, points)


def test_a_line_is_made_of_medians() -> None:
    rounds = [point for n, cost in enumerate((9.0, 30.0, 10.0), 1) for point in line(OURS, cost)]
    assert results(*rounds).line(HEADERS, OURS, "cpu_us") == [(1, 10.0)]


def test_the_report_names_shapes_figures_and_failures() -> None:
    bad = Point("headers", 100, 1, "granian", failure="it fell over")
    text = as_text(results(*line(OURS, 10, 10, 10, 10, 11), *line("granian", 10, 12, 20, 40), bad))
    assert "| flat |" in " ".join(text.split())
    assert "bjoern skipped: not there" in text
    assert "- granian, at 100: it fell over" in text
    assert "100,000" in text  # 1e6 / 10


def test_what_should_be_flat_and_is_not_is_said() -> None:
    points = [Point("idle", n, 1, OURS, {"cpu_us": 10.0 + n / 100}) for n in IDLE.sizes]
    seen = shape_of(results(*points), IDLE, OURS)
    assert seen is not None
    assert seen.name == LINEAR
    assert not is_as_it_should_be(IDLE, seen)
    assert is_as_it_should_be(HEADERS, seen)
    assert "NO" in as_text(results(*points))


def test_no_points_no_shape() -> None:
    failed = Point("headers", 1, 1, OURS, failure="no")
    assert shape_of(results(failed), HEADERS, OURS) is None


def test_json_can_be_read_again(tmp_path: Path) -> None:
    points = [*line(OURS, 10, 11), Point("headers", 10, 1, OURS, failure="no")]
    file = tmp_path / "scale.json"
    file.write_text(as_json(results(*points)), encoding="utf-8")
    assert read_points(file) == points
    assert json.loads(file.read_text())["shapes"][0]["name"] == FLAT


def test_other_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="not a result"):
        read_points(file)


def test_rounds_are_counted_on_from_run_to_run() -> None:
    first, second = line(OURS, 10, 11), line(OURS, 12, 13)
    alone = line("granian", 12)
    merged = renumbered([first, second, alone])
    assert [point.round for point in merged] == [1, 1, 2, 2, 1]


def test_the_command_reports_what_earlier_runs_have_measured(tmp_path: Path) -> None:
    for name, points in (("a", line(OURS, 10, 11)), ("b", line(OURS, 30, 31))):
        (tmp_path / f"{name}.json").write_text(as_json(results(*points)), encoding="utf-8")
    added = ["--add", str(tmp_path / "a.json"), "--add", str(tmp_path / "b.json")]
    out = tmp_path / "out"
    ran = CliRunner().invoke(main, [*added, "--no-run", "--output-dir", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "Medians of 2 interleaved rounds" in ran.output
    (written,) = out.glob("scale-*.json")
    assert [point.round for point in read_points(written)] == [1, 1, 2, 2]
    assert len(list(out.glob("scale-*.md"))) == 1


def test_a_failed_point_is_a_failed_run(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    failed = Point("headers", 10, 1, OURS, failure="no")
    file.write_text(as_json(results(failed)), encoding="utf-8")
    ran = CliRunner().invoke(main, ["--add", str(file), "--no-run", "--output-dir", str(tmp_path)])
    assert ran.exit_code == 1


def test_progress_says_what_is_known() -> None:
    assert "10 CPU us/request" in progress(line(OURS, 10.0)[0])
    assert progress(Point("idle", 10, 1, OURS, failure="gone")).endswith("FAILED: gone")


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.scale_plot import draw

    picture = tmp_path / "scale.svg"
    points = [Point("response", n, 1, OURS, {"cpu_us": 1.0 + n}) for n in (0, 1_000, 10_000)]
    draw(results(*line(OURS, 10, 11), *points), picture)
    assert "header fields" in picture.read_text(encoding="utf-8")
