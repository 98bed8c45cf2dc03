"""``srq data list|get|make|check``."""

from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import DataRoot, Json
from sr_quant_cli.report.terminal import say

app = typer.Typer(help="Data sets: list, get, make, check.", rich_markup_mode=None)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="DIV2K, Flickr2K, benchmark, Set5, ...: see 'srq data list'."
    ),
]


@app.command("list")
def list_sets(json: Json = None) -> None:
    """List the known data sets.

    \b
    Example:
      srq data list
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.data.catalog import DATASETS
    from sr_quant_cli.system.files import write_json

    for dataset in DATASETS.values():
        how = "" if dataset.archives else "  (by hand: needs registration)"
        say(f"{dataset.name:25}  {dataset.description}{how}")
    if json is not None:
        rows = [
            {
                "name": dataset.name,
                "description": dataset.description,
                "urls": [archive.url for archive in dataset.archives],
                "instructions": dataset.instructions.format(root="ROOT"),
            }
            for dataset in DATASETS.values()
        ]
        write_json(json, {"sets": rows})


@app.command()
def get(
    name: Name,
    hr_only: Annotated[
        bool, typer.Option("--hr-only", help="Skip LR pictures; srq makes identical ones itself.")
    ] = False,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep the archives after unpacking.")
    ] = False,
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Download a data set, or its missing parts, and unpack it.

    Damaged pictures are replaced. An interrupted download is resumed, and its md5 sum is verified.
    Folders appear once they are complete.

    \b
    Examples:
      srq data get benchmark
      srq data get DIV2K --hr-only --data-root /mnt/datasets
      srq data get DIV2K_train_LR_bicubic_X4
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.data.benchmark import data_root as root_of
    from sr_quant_cli.data.catalog import get_dataset
    from sr_quant_cli.data.fetch import get as fetch
    from sr_quant_cli.system.files import write_json

    dataset = get_dataset(name)
    lines = fetch(dataset, root_of(data_root), hr_only=hr_only, keep=keep_archives)
    say("\n".join(lines))
    if json is not None:
        write_json(json, {"name": dataset.name, "archives": lines})


@app.command()
def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Test2K, Test4K or Test8K.")],
    source: Annotated[
        Path,
        typer.Option(
            "--from", metavar="DIR", help="Folder of DIV8K's training pictures, 1201.png ..."
        ),
    ],
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Make Test2K, Test4K or Test8K from the training pictures of DIV8K.

    Pictures 1201 to 1300 are reduced to a longer side of 2048 pixels by bicubic interpolation,
    1301 to 1400 to 4096, and 1401 to 1500 keep their size. Smaller pictures are not enlarged, and
    both sides are cropped to multiples of 12. There is no canonical set of files: papers only say
    "downsampled to 2K and 4K resolution", so scores on other people's files differ. Intact
    pictures that exist already are kept.

    \b
    Example:
      srq data make Test2K --from DIV8K/train
    """  # noqa: D301 - typer's \b keeps the line breaks
    from dataclasses import asdict

    from sr_quant_cli.data.benchmark import data_root as root_of
    from sr_quant_cli.data.benchmark import usual_name
    from sr_quant_cli.data.div8k import make as make_set
    from sr_quant_cli.data.div8k import raise_missing
    from sr_quant_cli.system.files import write_json

    outcome = make_set(usual_name(name), source, root_of(data_root))
    say(f"{outcome.folder}: {outcome.made} pictures made, {outcome.kept} kept")
    if json is not None:
        write_json(json, asdict(outcome))
    raise_missing(outcome)


@app.command()
def check(name: Name, data_root: DataRoot = None, json: Json = None) -> None:
    """Check that a data set is complete and every picture decodes.

    \b
    Examples:
      srq data check Set5
      srq data check DIV2K --data-root /mnt/datasets --json report.json
    """  # noqa: D301 - typer's \b keeps the line breaks
    from dataclasses import asdict

    from sr_quant_cli.data.benchmark import data_root as root_of
    from sr_quant_cli.data.catalog import get_dataset
    from sr_quant_cli.data.fetch import check as inspect
    from sr_quant_cli.errors import FailedError
    from sr_quant_cli.system.files import write_json

    root = root_of(data_root)
    dataset = get_dataset(name)
    states = inspect(dataset, root)
    for state in states:
        absent = "  (absent; LR is made by bicubic)" if state.optional and not state.found else ""
        damaged = f"  damaged: {', '.join(state.damaged)}" if state.damaged else ""
        say(f"{root / state.folder}: {state.found} of {state.expected} pictures{absent}{damaged}")
    if json is not None:
        write_json(json, {"parts": [asdict(state) | {"ok": state.ok} for state in states]})
    wrong = [str(root / state.folder) for state in states if not state.ok]
    if wrong:
        remedy = f"repair with 'srq data get {dataset.name}'"
        how = remedy if dataset.archives else dataset.instructions.format(root=root)
        raise FailedError(f"incomplete or damaged: {', '.join(wrong)}; {how}")
