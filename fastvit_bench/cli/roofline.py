"""Command `roofline`: compare latencies with the peak of the device."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastvit_bench.cli import _complete, _output, _resolve
from fastvit_bench.cli._options import (
    ConfigOption,
    DeviceOption,
    ForceOption,
    MachineOption,
    PictureOption,
    SeriesFormat,
)
from fastvit_bench.cli._progress import ProgressLine
from fastvit_bench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from fastvit_bench.records import DevicePeak
    from fastvit_bench.render.rows import Row
    from fastvit_bench.render.table import TableReport
    from fastvit_bench.roofline.points import RooflinePoint


# long: declares the options of the command
def roofline(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=_complete.runs, help="Runs: ids, prefixes, files, or 'last'. [default: all of the device]"
        ),
    ] = None,
    device: DeviceOption = "cpu",
    again: Annotated[bool, typer.Option("--again", help="Measure the peak again, even if one is stored.")] = False,
    format_: Annotated[
        SeriesFormat, typer.Option("--format", "-f", help="Format of the peaks and figures.")
    ] = SeriesFormat.RICH,
    output: PictureOption = None,
    force: ForceOption = False,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Compare latencies with the peak of the device.

    Shows GMAC/s, the share of the peak, and what bounds each network. Peak arithmetic rate and memory bandwidth are
    measured once, through the device's own toolkit. That takes up to a minute on a quiet machine. The peak is stored in
    results/DEVICE/peak.json by machine, versions, precision and options. Exit code 7: some runs could not be read, and
    the others are shown.

    \b
    fastvit-bench roofline --device cpu -o roofline.svg
    fastvit-bench roofline last --again
    """
    from fastvit_bench import options
    from fastvit_bench.render import charts
    from fastvit_bench.render.rows import collect
    from fastvit_bench.roofline import chart, peak
    from fastvit_bench.roofline import points as rooflines
    from fastvit_bench.store import figures

    settings = options.load(config_file)
    chosen = settings.device(device)
    if output is not None:
        charts.check(output, force=force)
    results = Path(settings.paths.results)
    paths = _resolve.runs(run or [], results)
    with _output.without_collector():
        files, unreadable = figures.read_all(path for path in paths if path.parent.name == device or run)
        for sentence in unreadable:
            _output.warn(sentence)
        rows = [row for row in collect(files) if row.device.name == device and row.measured]
        if run and not rows:
            raise UsageError(
                f"Nothing was measured on '{device}' in {_output.plural(len(files), 'run')}; name its runs."
            )
        options.require_folders(settings, device)
        name = settings.machine_name(machine_name)
        with ProgressLine(_output.stderr()) as progress:
            peaks = peak.of_rows(rows, chosen, results / device, again=again, notify=progress.timing, name=name)
        counted = peak.traffic((cell for row in rows for cell in row.measured), Path(settings.paths.models))
        points = rooflines.collect(rows, peaks, counted)
        if format_.value in rooflines.FORMATS:
            sys.stdout.write(rooflines.FORMATS[format_.value](points, peaks))
        else:
            _output.print_report(_shown(rows, points, peaks, format_), format_.value)
        if output is not None:  # the table is printed by then, which a picture that cannot be written must not cost
            _output.say("\n".join([*chart.write(points, peaks, output, force=force), f"picture: {output}"]))
        if unreadable:
            raise typer.Exit(ExitCode.CELLS_FAILED)


def _shown(
    rows: "Sequence[Row]", points: "Sequence[RooflinePoint]", peaks: "Sequence[DevicePeak]", format_: SeriesFormat
) -> "TableReport":
    """Return the tables that people read: on a terminal without -v those of the newest rows."""
    from fastvit_bench.render.row_table import MOST_ROWS
    from fastvit_bench.render.rows import newest
    from fastvit_bench.roofline import points as rooflines

    if format_ is not SeriesFormat.RICH or _output.verbose() or len(rows) <= MOST_ROWS:
        return rooflines.report(points, peaks)
    keys = {row.key for row in newest(rows, MOST_ROWS)}
    shown = rooflines.report([point for point in points if point.row.key in keys], peaks)
    few = f"Figures of the newest {MOST_ROWS} of {len(rows):,} rows. Name their runs to choose, or add -v or -f csv."
    return replace(shown, caption=few)
