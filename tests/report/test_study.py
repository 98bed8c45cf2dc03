"""Tables of a study, from rows to Markdown, CSV and LaTeX."""

import csv

import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.recipe.study import load_study
from sr_quant_cli.report.study import _cost, write_tables
from sr_quant_cli.report.study_formats import csv_rows, latex, markdown
from sr_quant_cli.report.study_tables import study_tables

FILE = """
name = "s"
[grid]
method = ["pams", "dobi"]
bits = ["w4a4", "w2a2"]
[evaluate]
bench = ["Set5", "Set14"]
"""


def study(tmp_path, more):
    path = tmp_path / "s.toml"
    path.write_text(FILE + more)
    return load_study(path)


def row(method, bits, psnr, **changes):
    """Row of a cell; ``psnr`` is that on Set5, and on Set14 it is 3 dB less."""
    fields = {"model": "net", "network": "edsr", "scale": 4, "method": method, "bits": bits}
    others = dict.fromkeys(("recipe", "placement", "variant", "iters", "seed"))
    scores = [
        {
            "bench": bench,
            "psnr": psnr - less,
            "ssim": 0.9,
            "drop": None if method is None else 32 - psnr,
            "published_drop": 0.5 if (method, bench) == ("pams", "Set5") else None,
        }
        for bench, less in (("Set5", 0), ("Set14", 3))
    ]
    return {
        "cell": f"net-{method}-{bits}",
        "status": "done",
        **fields,
        **others,
        "scores": scores,
        "bytes": 1_500_000,
        "published_source": "a paper" if method == "pams" else None,
        **changes,
    }


ROWS = [
    row(None, None, 32.0),
    row("dobi", "w4a4", 31.5, seed=0),
    row("dobi", "w2a2", 30.0, seed=0),
    row("pams", "w4a4", 31.0, seed=0),
    row("pams", "w4a4", 31.2, seed=1),
    {**row("pams", "w2a2", 0.0), "status": "failed", "reason": "out of memory"},
]


def test_markdown(tmp_path):
    more = '[[tables]]\nname = "t"\nmetrics = ["psnr", "drop", "published_drop", "bytes"]\n'
    (table,) = study_tables(study(tmp_path, more + 'bench = ["Set5"]'), ROWS)
    assert (
        markdown(table)
        == """
# t

| method | bits | Set5 PSNR / drop / published drop | MB |
| --- | --- | ---: | ---: |
| full precision | - | 32.00 / - / - | 1.500 |
| pams | w4a4 | 31.10 ± 0.14 / 0.90 ± 0.14 / 0.50 | 1.500 |
| pams | w2a2 | - / - / - | - |
| dobi | w4a4 | 31.50 / 0.50 / - | 1.500 |
| dobi | w2a2 | 30.00 / 2.00 / - | 1.500 |

* protocol matlab; PSNR and drop in dB
* mean ± standard deviation over 2 seeds, where a cell has several
* published figures of pams: a paper; protocol and quantized sites may differ from those here
* net-pams-w2a2 failed: out of memory
"""
    )


def test_latex_has_headings_over_several_columns(tmp_path):
    more = '[[tables]]\nname = "t"\ntitle = "A & B"\nrows = ["method"]\ncolumns = ["bits"]\n'
    (table,) = study_tables(study(tmp_path, more + 'metrics = ["psnr", "bytes"]'), ROWS)
    text = latex(table)
    assert text[text.index(r"\begin{table}") :] == (
        r"""\begin{table}
\centering
\caption{A \& B}
\begin{tabular}{lrrrrrr}
\toprule
 & \multicolumn{3}{c}{w4a4} & \multicolumn{3}{c}{w2a2} \\
\cmidrule(lr){2-4} \cmidrule(lr){5-7}
 & \multicolumn{1}{c}{Set5} & \multicolumn{1}{c}{Set14} & \multicolumn{1}{c}{} & """
        r"""\multicolumn{1}{c}{Set5} & \multicolumn{1}{c}{Set14} & \multicolumn{1}{c}{} \\
\cmidrule(lr){2-2} \cmidrule(lr){3-3} \cmidrule(lr){5-5} \cmidrule(lr){6-6}
method & PSNR & PSNR & MB & PSNR & PSNR & MB \\
\midrule
full precision & $32.00$ & $29.00$ & $1.500$ & $32.00$ & $29.00$ & $1.500$ \\
pams & $31.10 \pm 0.14$ & $28.10 \pm 0.14$ & $1.500$ & -- & -- & -- \\
dobi & $31.50$ & $28.50$ & $1.500$ & $30.00$ & $27.00$ & $1.500$ \\
\bottomrule
\end{tabular}
\end{table}
"""
    )


def test_csv_has_a_column_for_every_figure(tmp_path):
    more = '[[tables]]\nname = "t"\nmetrics = ["psnr"]\nwhere = { method = "pams" }\n'
    (table,) = study_tables(study(tmp_path, more), ROWS)
    headings, rows = csv_rows(table)
    assert headings == [
        *("table", "method", "bits", "Set5_psnr", "Set5_psnr_std", "Set14_psnr", "Set14_psnr_std")
    ]
    assert rows[0] == ["t", "full precision", "-", 32.0, None, 29.0, None]
    assert rows[1][3:5] == [31.1, pytest.approx(0.14142)]
    assert [line[1] for line in rows] == ["full precision", "pams", "pams"]


def test_what_tells_cells_apart_becomes_a_column(tmp_path):
    rows = [*ROWS[:3], row("dobi", "w2a2", 29.0, seed=0, placement="full")]
    (table,) = study_tables(study(tmp_path, ""), rows)
    assert table.labels == ("method", "bits", "placement")
    assert [labels for labels, _ in table.rows][-1] == ("dobi", "w2a2", "full")


def test_files_and_plots(tmp_path):
    read = study(tmp_path, "")
    files = write_tables(tmp_path, read, ROWS)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        *("tables/all.md", "tables/all.csv", "tables/all.tex", "plots/all-bits.svg")
    ]
    assert "full precision" in files[3].read_text(encoding="utf-8")
    with files[1].open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 6
    assert write_tables(tmp_path, read, ROWS[:2])
    files[2].write_text("mine")
    with pytest.raises(UsageError, match="srq did not write it"):
        write_tables(tmp_path, read, ROWS)


def test_a_study_without_rows_has_an_empty_table(tmp_path):
    (table,) = study_tables(study(tmp_path, ""), [])
    assert table.rows == ()
    assert "| method | bits |" in markdown(table)
    assert r"\toprule" in latex(table)


def test_levels_count_as_bits():
    assert _cost({"bits": "w29La6"}, "bits") == pytest.approx((4.858 + 6) / 2, abs=1e-3)
