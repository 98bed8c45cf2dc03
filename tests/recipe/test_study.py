"""Study files: what they mean, and their errors."""

import re
from pathlib import Path

import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.published import _tables, find_published
from sr_quant_cli.recipe.study import _SECTIONS, Cell, Study, check_bit_pair, load_study


def read(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(f'name = "a"\n{text}')
    return load_study(path)


def test_a_grid_is_every_combination_and_cells_are_added(tmp_path):
    study = read(
        tmp_path,
        """
        [grid]
        method = ["minmax", "dobi"]
        bits = ["w4a4", 2]
        seed = [0, 1]
        [[skip]]
        method = "dobi"
        bits = 2
        [[skip]]
        seed = 1
        method = ["minmax", "percentile"]
        [[cells]]
        method = "pams"
        placement = "full"
        [[cells]]
        method = "minmax"
        bits = [4, 4]
        seed = 0
        """,
    )
    four, two = Bits(4, 4), Bits(2, 2)
    assert study.all_cells() == [
        Cell(method="minmax", bits=four, seed=0),
        Cell(method="minmax", bits=two, seed=0),
        Cell(method="dobi", bits=four, seed=0),
        Cell(method="dobi", bits=four, seed=1),
        Cell(method="pams", placement="full"),
    ]


def test_changes_go_from_all_cells_to_single_variants(tmp_path):
    study = read(
        tmp_path,
        """
        [grid]
        method = ["pams"]
        variant = ["plain"]
        [budget]
        batch = 2
        [set]
        data.patch_hr = 96
        [methods.pams]
        optim.lr = 1e-3
        [methods.daq]
        optim.lr = 1.0
        [variants.plain]
        loss.feature_weight = 0.0
        sites."body.3.conv2" = { weight = 5 }
        """,
    )
    (cell,) = study.all_cells()
    assert [(c.key, c.value) for c in study.changes(cell, "pams")] == [
        ("train.batch", 2),
        ("data.patch_hr", 96),
        ("optim.lr", 1e-3),
        ("loss.feature_weight", 0.0),
        ('sites."body.3.conv2".weight', 5),
    ]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("nam = 1", ["nam: unknown key, did you mean name?"]),
        ('[grid]\nmethd = ["pams"]', ["grid.methd: unknown key, did you mean grid.method?"]),
        (
            '[grid]\nmethod = ["pams"]\nbits = ["w9999"]\n[budget]\niters = -1\nminutes = "1"',
            [
                "grid.bits.0 = 'w9999': must be bits of weights and activations, as w4a4, w29a6",
                "budget.iters = -1: must be 0 or more",
                "budget.minutes = '1': must be a number",
            ],
        ),
        ('[grid]\nmethod = ["pms"]', ["unknown method 'pms': did you mean 'pams'? known: "]),
        ('[grid]\nnetwork = ["edsr"]', ["network=edsr: needs a method, or a recipe"]),
        (
            '[[cells]]\nmethod = "pams"\nmodel = "a"\nnetwork = "esdr"',
            ["model = a: has a network of its own", "unknown network 'esdr': did you mean 'edsr'?"],
        ),
        ('[[cells]]\nmethod = "pams"\nvariant = "v"', ["unknown variant 'v': known: none"]),
        ("", ["has no cells: give [grid] lists of values, or add [[cells]]"]),
        (
            '[[cells]]\nmethod = "pams"\n[set]\nbits.w = 4\ntrain.iters = 2',
            ["set.bits.w: is set by the fields of cells", "set.train.iters: is set by the"],
        ),
        (
            '[[cells]]\nmethod = "pams"\n[evaluate]\nprotocol = "mat"\n[[tables]]\nname = "t"\n'
            'bench = ["B100"]\n[[tables]]\nname = "t"',
            [
                "tables: two are called t",
                "tables.t.bench: B100 is not in evaluate.bench",
                "unknown protocol 'mat'",
            ],
        ),
        (
            '[[cells]]\nmethod = "pams"\n[[tables]]\nname = "t"\ncolumns = ["method"]',
            ["tables.0.columns: method makes rows already"],
        ),
        (
            '[[cells]]\nmethod = "pams"\n[[tables]]\nname = "t"\nrows = ["seed"]',
            ["tables.0.rows: seeds are averaged"],
        ),
        ("[grid", ["not a readable TOML file"]),
    ],
)
def test_errors_are_a_line_each(tmp_path, text, problems):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(problems), lines
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(f"{tmp_path / 'a.toml'}: ")
        assert problem in line


@pytest.mark.parametrize("value", ["w4", "w1a4", "a4w4", [4], [4, 4, 4], 1, 300, True, 4.0, None])
def test_what_is_no_pair_of_bits_is_refused(value):
    with pytest.raises(ValueError, match="must be bits of weights and activations"):
        check_bit_pair(value)


def test_every_field_is_on_the_page_on_studies():
    page = (Path(__file__).parents[2] / "docs/study.md").read_text(encoding="utf-8")
    for section in (Study, *_SECTIONS.values()):
        for name, field in section.model_fields.items():
            key = field.alias or name
            assert re.search(rf"`{key}`|\[{key}[].]|^{key} = ", page, re.MULTILINE), key


def test_published_figures_have_one_for_every_set():
    for table in _tables().table:
        count = len(table.bench)
        assert len(table.full_precision) in (0, count)
        assert all(len(row.psnr) == count for row in table.rows)
        assert all(str(check_bit_pair(row.bits)) == row.bits for row in table.rows)


def test_published_figures_are_of_the_network_and_scale():
    edsr = {"name": "edsr", "scale": 4, "n_feats": 64}
    odm = find_published(edsr, "odm", "w2a2")
    assert odm.psnr == {"Set5": 31.5, "Set14": 28.14, "Urban100": 25.17}
    assert odm.drop["Set5"] == 0.6
    assert odm.source.endswith("drops are from the full precision of DAQ's table")
    daq = find_published(edsr, "daq", "w2a2")
    assert daq.source.endswith("drops are from the full precision of the same table")
    assert find_published({**edsr, "n_feats": 256}, "odm", "w2a2") is None
    assert find_published({**edsr, "scale": 3}, "odm", "w2a2") is None
    assert find_published({**edsr, "scale": 2}, "ddtb", "w4a4").drop == {}
    assert "not known" in find_published({**edsr, "scale": 2}, "ddtb", "w4a4").source
