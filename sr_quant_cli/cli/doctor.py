"""``srq doctor``."""

from sr_quant_cli.cli.options import DataRoot, Json


def doctor(data_root: DataRoot = None, json: Json = None) -> None:
    """Show what this installation has, and test it for two seconds.

    Versions, the processor, kernels, runtimes or why they cannot run, plugins, data sets, your
    models, the cache; and the speed of the default model. Exit code 1 if the self-test fails.

    \b
    Examples:
      srq doctor
      srq doctor --json doctor.json
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.doctor import diagnose
    from sr_quant_cli.errors import FailedError
    from sr_quant_cli.report.doctor import print_diagnosis
    from sr_quant_cli.system.files import write_json

    found = diagnose(data_root)
    print_diagnosis(found)
    if json is not None:
        write_json(json, found.to_json())
    if found.self_test.problem:
        raise FailedError(f"self-test: {found.self_test.problem}")
