"""A calibration speaks of the machine it was made on."""

from pathlib import Path

import builders
import msgspec
import pytest

from fastvit_bench.comparing import calibrate
from fastvit_bench.records import Machine
from fastvit_bench.records.comparison import Calibration, CellCalibration, Plan

CELL = CellCalibration(
    name="fastvit_t8 256 b1",
    margin=0.05,
    blocks=30,
    scatter=0.1,
    false_alarms=0,
    inconclusive=0,
    drawn_false_alarms=0.0,
    drawn_inconclusive=0.0,
    detectable=0.2,
    floor=0.09,
)


def made_on(machine: Machine | None) -> Calibration:
    return Calibration(
        plan=Plan(), repetitions=5, false_alarms=0, inconclusive=0, cells=(CELL,), pooled=None, machine=machine
    )


@pytest.mark.parametrize(
    ("machine", "doubts"),
    [
        (builders.machine(), 1),
        (builders.machine(host="another", packages={}), 1),
        (None, 1),  # kept before machines were
        (builders.machine(cores=2), 0),
        (builders.machine(name="lab-2"), 0),
    ],
)
def test_another_machine_s_noise_is_no_doubt_here(tmp_path: Path, machine: Machine | None, doubts: int) -> None:
    calibrate.save(made_on(machine), tmp_path)
    found = calibrate.doubts(tmp_path, Plan(), builders.machine(name="lab-1"))
    assert len(found) == doubts
    assert all("noise floor of 9 %" in each for each in found)


def test_a_calibration_of_before_is_read(tmp_path: Path) -> None:
    kept = msgspec.to_builtins(made_on(None))
    del kept["machine"]
    (tmp_path / calibrate.NAME).write_bytes(msgspec.json.encode(kept))
    assert calibrate.load(tmp_path) == made_on(None)
