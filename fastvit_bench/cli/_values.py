"""Between the words and the values: what several commands make of the configuration, a device, a model, a run."""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from typer.core import TyperOption

from fastvit_bench import backends, config, files
from fastvit_bench.errors import StoreError, UsageError
from fastvit_bench.records import SETTINGS, Device, Machine, ModelSpec, Protocol, Setting

if TYPE_CHECKING:
    from fastvit_bench.config import Config


def load(path: Path | None) -> "Config":
    """The configuration, whose devices have backends of this version; see `config.load`."""
    return config.load(path, backends=backends.implemented())


def as_asked(
    device: Device,
    protocol: Protocol | None = None,
    precision: str | None = None,
    batch: int | None = None,
    running: Mapping[str, Any] | None = None,
) -> Device:
    """The device with what a protocol and the options say of it, every option filled in."""
    backend = backends.get(device.backend)
    setting = SETTINGS.get(protocol, Setting()) if protocol else Setting()
    if setting.options and not backend.settling(device):
        raise UsageError(f"--protocol {protocol} is for NVIDIA GPUs, and device '{device.name}' is none.")
    device = msgspec.structs.replace(
        device,
        precision=precision or setting.precision or device.precision,
        batch=batch or setting.batch or device.batch,
        options={
            **device.options,
            **setting.options,
            **{name: value for name, value in (running or {}).items() if value is not None},
        },
    )
    if device.precision not in backend.precisions:
        raise UsageError(
            f"Device '{device.name}' runs {' or '.join(backend.precisions)}, not {device.precision}; correct "
            f"--precision, or its precision in the configuration."
        )
    return msgspec.structs.replace(device, options=backend.options(device))


def require_folders(settings: "Config", device: str, report: Path | None = None) -> None:
    """Raise `StoreError` where what is exported, measured or reported could not be kept, before any of it is done."""
    folders = {"results": Path(settings.paths.results) / device, "exported files": Path(settings.paths.models)}
    if report is not None:
        folders["reports"] = report
    for what, folder in folders.items():
        if (refused := files.refusal(folder)) is not None:
            raise StoreError(f"The folder {folder} for {what} cannot be written: {refused}.")


# what does not decide how a run was begun, and may be given when it goes on
_NOT_OF_THE_RUN = {
    *("resume", "device", "machine_name", "config_file", "format_", "output", "dry_run"),
    *("wait", "any_speed", "allow_device_mismatch"),
}


def refuse_besides_resume(context: typer.Context) -> None:
    """Raise `UsageError` for options of a command that were given besides --resume."""
    set_too = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name
        and parameter.name not in _NOT_OF_THE_RUN
        and isinstance(parameter, TyperOption)
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name != "DEFAULT"
    ]
    if set_too:
        raise UsageError(
            f"--resume continues a run as it was begun; leave out {', '.join(set_too)} or start a new run."
        )


def single(model: list[str] | None) -> str | None:
    """The one model that goes with one checkpoint."""
    if model and len(model) > 1:
        raise UsageError("--checkpoint is one network's weights; give one --model with it, or none.")
    return model[0] if model else None


def one_model(settings: "Config", model: str | None, checkpoint: Path | None) -> ModelSpec:
    """The model a command is about; without a name, the one that the checkpoint turns out to be."""
    if model is not None:
        if fnmatch.filter(settings.models, model) != [model] and any(sign in model for sign in "*?["):
            raise UsageError(f"'{model}' may mean several models here; give one name.")
        spec = settings.select([model])[0]
    elif checkpoint is not None:
        from fastvit_bench.network import checkpoint as checkpoints

        found = checkpoints.load(checkpoint)
        named = settings.models.get(found.variant)
        spec = named or ModelSpec(name=found.variant, variant=found.variant)
    else:
        spec = settings.select([])[0]
    return spec if checkpoint is None else msgspec.structs.replace(spec, checkpoint=str(checkpoint), sha256=None)


def runs(run: Sequence[str], results: Path) -> list[Path]:
    """The run files that were named, each once; without names every one."""
    from fastvit_bench.report import store

    return list(dict.fromkeys(path for ref in run for path in store.find(results, ref))) or store.all_runs(results)


def tell_host(machine: Machine, before: Machine) -> None:
    """Say on standard error that what is continued was begun under another host name, where that is so."""
    if hint := machine.hint(before):
        typer.echo(hint, err=True)
