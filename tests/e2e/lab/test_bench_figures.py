"""What the benchmark makes of its samples: which way a ratio points, what a bound is on, what a later run replaces."""

import xml.dom.minidom

import pytest
from muster_tools.bench import figures, plot, regression, report, size
from muster_tools.bench.figures import Bound, Curve, Figures, Row
from muster_tools.bench.measure import MIB
from muster_tools.bench.peers import Options


def row(key="family/row", ours=(2.0, 4.0, 3.0), others=(1.0, 1.0, 3.0), **more):
    return Row(key, "a row", "ms", "the other", list(ours), list(others), **more)


def test_a_ratio_is_the_median_of_the_pairs():
    assert row().ratios() == [2.0, 4.0, 1.0]
    assert row().ratio() == 2.0


@pytest.mark.parametrize(("number", "left_out"), [(5, None), (6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (30, 10)])
def test_the_interval_is_the_sign_tests(number, left_out):
    """As tables of the sign test have it for 5 % on both sides."""
    values = list(range(1, number + 1))
    assert figures.interval(values[::-1]) == (left_out and (left_out, number + 1 - left_out))


@pytest.mark.parametrize(("most", "told"), [(1.0, "**missed**"), (3.0, "reached, undecided"), (9.0, "reached")])
def test_a_bound_inside_the_interval_is_undecided(most, told):
    ratios = [2.0] * 6 + [4.0] * 4
    assert report.verdict(row(ours=ratios, others=[1.0] * 10, bound=Bound(ratio=most))) == told


@pytest.mark.parametrize(("excess", "told"), [(0.0, "**missed**"), (2.0, "reached, undecided"), (9.0, "reached")])
def test_a_bound_on_how_much_more_is_undecided_inside_the_interval(excess, told):
    """Also where the other is zero, and there is no ratio."""
    more = [1.0] * 6 + [4.0] * 4
    assert report.verdict(row(ours=more, others=[0.0] * 10, bound=Bound(excess=excess))) == told


def test_a_count_may_be_zero(tmp_path):
    """Of one side, or in some of the pairs: then there is no ratio of the best."""
    rows = [row("a/some", ours=[0.0, 3.0, 0.0], others=[1.0, 0.0, 2.0], bound=Bound(excess=0.0), headline=True)]
    figures = Figures(tmp_path / "figures.json")
    figures.replace([], rows)
    figures.write()
    (kept,) = Figures(figures.path).in_order(("a",))
    assert (kept.steady(), kept.ratio(), kept.reached()) == (None, 0.0, True)
    assert "a row" in plot.svg([kept], [])


def test_what_is_within_so_much_more_is_told_with_how_much_more():
    one = row(ours=[3.0] * 6, others=[1.5] * 6, bound=Bound(excess=2.0))
    assert (one.beside(), one.told_bound()) == ("2.00; 1.50 ms more", "≤ 2.00 ms more")


def test_of_rates_the_faster_costs_less():
    assert row(ours=[200.0], others=[100.0], rate=True).ratio() == 0.5
    assert row(ours=[100.0, 200.0], others=[400.0, 300.0], rate=True).steady() == 2.0


def test_the_steady_ratio_is_of_the_best_runs():
    assert row(ours=[9.0, 2.0], others=[1.0, 50.0]).steady() == 2.0


def test_what_the_image_has_beside_etcd_is_the_binary_and_its_notices(tmp_path):
    binary = tmp_path / "etcd-muster"
    binary.write_bytes(bytes(MIB))
    assert 1 < size.over_etcd(Options(binary, "3.5.1", pairs=1, rest=1, quick=True)) < 1.2


@pytest.mark.parametrize(
    ("bound", "reached"),
    [
        (None, None),
        (Bound(ratio=2.0), True),
        (Bound(ratio=1.9), False),
        (Bound(excess=2.0), True),
        (Bound(excess=1.9), False),
        (Bound(ours=3.0), True),
        (Bound(ours=2.9), False),
        (Bound(within=[0.5, 2.0]), True),
        (Bound(within=[2.1, 3.0]), False),
        (Bound(ratio=2.0, ours=2.9), False),
        (Bound(ratio=1.9, ours=3.0), False),
        (Bound(ratio=2.0, ours=3.0), True),
    ],
)
def test_a_bound_is_on_what_it_says(bound, reached):
    assert row(bound=bound).reached() is reached


def test_a_bound_on_a_ratio_that_was_not_had_is_missed():
    assert row(others=[], bound=Bound(ratio=1.0)).reached() is False


def test_what_the_other_fails_at_is_told():
    assert row(failed=1).theirs() == "1.00 ms (1.00 to 3.00), 1 of 4 failed"
    assert row(others=[], failed=4).theirs() == "4 of 4 failed"


def test_a_later_run_replaces_its_own_family_alone(tmp_path):
    store = tmp_path / "figures.json"
    figures = Figures(store)
    curve = Curve("b/curve", "a curve", "instances", "ms", [[1, 2.0, 1.0, 3.0]], "why")
    figures.replace(
        ["a", "b"], [row("a/one", date="then"), row("a/gone", date="then"), row("b/one", date="then", bound=Bound(ratio=3)), curve]
    )
    figures.write()
    figures = Figures(store)
    figures.replace(["a"], [row("a/one", ours=[1.0], others=[1.0], date="now")])
    figures.write()
    kept = Figures(store)
    assert {key: one.date for key, one in kept.rows.items()} == {"a/one": "now", "b/one": "then"}
    assert kept.rows["b/one"].reached() is True
    assert kept.curves["b/curve"].points == [[1, 2.0, 1.0, 3.0]]


def test_worse_by_more_than_a_third_fails_and_is_named(capsys):
    baseline = {"a/one": row("a/one", ours=[1.0], others=[1.0], quick=True)}
    at = lambda value: lambda _: [row("a/one", ours=[value], others=[1.0], quick=True)]
    assert regression.check(["a"], baseline, at(1.33)) == 0
    assert regression.check(["a"], baseline, at(1.35)) == 1
    assert "WORSE: a row, against the other: ratio 1.35, baseline 1.00" in capsys.readouterr().out


@pytest.mark.parametrize("found", [[], [row("a/one", quick=True), row("a/new", quick=True)]])
def test_a_figure_that_is_not_compared_fails_and_is_named(found, capsys):
    baseline = {"a/one": row("a/one", quick=True), "b/other": row("b/other", quick=True), "a/slow": row("a/slow")}
    assert regression.check(["a"], baseline, lambda _: found) == 1
    assert f"UNKNOWN: {'a/new' if found else 'a/one'} " in capsys.readouterr().out


def test_one_bad_run_is_no_regression():
    baseline = {"a/one": row("a/one", ours=[1.0], others=[1.0], quick=True)}
    values = iter([3.0, 1.1])
    assert regression.check(["a"], baseline, lambda _: [row("a/one", ours=[next(values)], others=[1.0], quick=True)]) == 0


def test_the_plot_is_well_formed_and_holds_every_bounded_row():
    rows = [row("a/one", bound=Bound(ratio=3.0)), row("b/two", bound=Bound(within=[0.9, 1.1]))]
    drawn = xml.dom.minidom.parseString(
        plot.svg(rows, [Curve("c/d", "<a> & b", "n", "s", [[1, 1.0, 1.0, 1.0], [9, 2.0, 1.0, 3.0]], "why")])
    )
    said = [text.firstChild.data for text in drawn.getElementsByTagName("text")]
    assert said.count("a row") == 2 and "<a> & b, by n (s)" in said


def test_table_plot_and_evidence_are_what_the_kept_figures_make():
    for path, text in report.made_of(Figures()).items():
        assert path.read_text() == text, f"{path.name}: run scripts/bench --table"


def test_what_is_written_is_what_is_made_of_the_kept_figures(tmp_path, monkeypatch):
    for name in ("TABLE", "PLOT", "EVIDENCE"):
        monkeypatch.setattr(report, name, tmp_path / name)
    report.EVIDENCE.write_text(f"{report.BEGIN}\n{report.END}\n")
    figures = Figures(tmp_path / "figures.json")
    figures.replace([], [row(key="size/binary", ours=(123456.7,), others=(1.0,), headline=True)])
    report.write(figures)
    written = {path: path.read_text() for path in report.made_of(Figures(figures.path))}
    assert written == report.made_of(Figures(figures.path))
    assert "123,460" in written[report.TABLE]
