"""Several inputs, trees of folders, patterns and streams, and where their results go."""

import os
from pathlib import Path

import pytest

from sr_quant_cli.commands import jobs
from sr_quant_cli.commands.jobs import Naming
from sr_quant_cli.errors import UsageError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def plan(*inputs, output=None, tag="_x2", suffix=".png", **more):
    made = jobs.plan_jobs(inputs, Naming(tag, suffix), output, **more)
    return {str(job.source): str(job.target) for job in made.jobs}, made.left_out


def test_a_tree_of_folders_is_mirrored():
    fill("in/a.png", "in/day/b.jpg", "in/day/night/b.jpg", "in/.hidden/c.png")
    made, left_out = plan("in", output="out/", recursive=True)
    assert made == {
        "in/a.png": "out/a_x2.png",
        "in/day/b.jpg": "out/day/b_x2.png",
        "in/day/night/b.jpg": "out/day/night/b_x2.png",
    }
    assert left_out == ""
    made, left_out = plan("in", recursive=True)
    assert made["in/day/b.jpg"] == "in/day/b_x2.png"
    made, left_out = plan("in", output="out/")
    assert list(made) == ["in/a.png"]
    assert left_out == "in: left out: 1 subfolder (day)"


def test_the_folder_of_the_results_is_not_entered():
    fill("a.png", "out/a_x2.png", "out/other.png")
    made, left_out = plan(".", output="out", recursive=True)
    assert made == {"a.png": "out/a_x2.png"}
    assert left_out == ""


def test_links_to_folders_are_not_followed():
    fill("in/a.png", "elsewhere/b.png")
    Path("in/up").symlink_to("..")
    Path("in/there").symlink_to("../elsewhere")
    made, left_out = plan("in", output="out", recursive=True)
    assert list(made) == ["in/a.png"]
    assert left_out == "in: left out: 2 subfolders (there, up)"


def test_several_folders_keep_their_names():
    fill("2023/a.png", "2024/a.png", "b.png")
    made, _ = plan("2023", "2024/", "b.png", output="out")
    assert made == {
        "2023/a.png": "out/2023/a_x2.png",
        "2024/a.png": "out/2024/a_x2.png",
        "b.png": "out/b_x2.png",
    }
    made, _ = plan("2023", "b.png", output="out")
    assert made == {"2023/a.png": "out/a_x2.png", "b.png": "out/b_x2.png"}


def test_patterns_find_pictures():
    fill("in/a.png", "in/b.jpg", "in/x/a.png", "in/x/y/c.jpg", "in/b_x2.png")
    Path("in/notes.png.txt").touch()
    assert plan("in/*.png")[0] == {"in/a.png": "in/a_x2.png", "in/b_x2.png": "in/b_x2_x2.png"}
    made, left_out = plan("in/*", output="out")
    assert made == {"in/a.png": "out/a_x2.png", "in/b.jpg": "out/b_x2.png"}
    assert left_out == "in/*: left out: 1 enlargement (b_x2.png)"
    assert plan("in/**/*.[jp][pn]g", output="out")[0] == {
        "in/a.png": "out/a_x2.png",
        "in/b.jpg": "out/b_x2.png",
        "in/x/a.png": "out/x/a_x2.png",
        "in/x/y/c.jpg": "out/x/y/c_x2.png",
    }


def test_a_name_with_marks_of_patterns_is_a_file_first():
    fill("[1].png", "1.png")
    assert plan("[1].png")[0] == {"[1].png": "[1]_x2.png"}
    assert plan("[12].png")[0] == {"1.png": "1_x2.png"}


def test_what_a_shell_expands_is_treated_like_a_folder():
    """The enlargement of the last run is among the names that the shell finds."""
    fill("a.png", "a.jpg", "a_x2.png", "b_x2.png")
    made, left_out = plan("a.jpg", "a.png", "a_x2.png", "b_x2.png", "./a.png")
    assert made == {
        "a.jpg": "a_x2.png",
        "a.png": "a.png_x2.png",
        "b_x2.png": "b_x2_x2.png",
    }
    assert left_out == "a_x2.png: left out: 1 enlargement (a_x2.png)"
    assert plan("a_x2.png")[0] == {"a_x2.png": "a_x2_x2.png"}


def test_own_suffixes_and_formats_name_results():
    fill("a.png", "a_big.png", "b_1920x1080.png", "b.png", "b_w90.jpg")
    made, left_out = plan(".", tag="_big", suffix=".webp")
    assert made == {"a.png": "a_big.webp", "b.png": "b_big.webp"}
    assert left_out == ".: left out: 3 enlargements (a_big.png, b_1920x1080.png, b_w90.jpg)"
    assert plan("a.png", tag="", suffix=".jpg")[0] == {"a.png": "a.jpg"}
    assert plan("a.png", tag="", output="out")[0] == {"a.png": "out/a.png"}


@pytest.mark.parametrize("output", [None, "-"])
def test_streams_are_an_input_and_an_output(output):
    assert plan("-", output=output)[0] == {"-": "-"}
    fill("a.png", "-")
    assert plan("a.png", output="-")[0] == {"a.png": "-"}
    assert plan("-", output="out/")[0] == {"-": "out/stdin_x2.png"}
    assert plan("-", output="b.webp")[0] == {"-": "b.webp"}
    ((source, _),) = plan("./-", output="b.png")[0].items()
    assert source == os.path.abspath("-")  # noqa: PTH100


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["x/a.png", "y/a.png"], "out", r"x/a.png and y/a.png would both become out/a_x2.png$"),
        (["x/a.png", "y/A.jpg"], "out", "would both become"),
        (["x/a.png", "y/a.png"], "b.png", "is a file name, but there are 2 inputs"),
        (["x/*.png"], "b.png", "is one file, but there are 2 pictures"),
        (["x/*.bmp"], None, r"^no picture matches x/\*\.bmp$"),
        (["x/a.png", "x/b.png"], "-", "is standard output, but there are 2 inputs"),
        (["x"], "-", "is standard output, but the input x is a folder"),
        (["-", "x/a.png"], "out", r"standard input \(-\) is one picture"),
        (["x/a.png", "none.png"], None, "no such picture or folder: none.png"),
        (["x/a.png"], "x/b.png/c/", "cannot make the folder x/b.png/c: .*x/b.png is no folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(inputs, output, message):
    fill("x/a.png", "x/b.png", "y/a.png", "y/A.jpg")
    with pytest.raises(UsageError, match=message):
        plan(*inputs, output=output)
    assert not Path("out").exists()


def test_results_never_replace_inputs():
    fill("x/a.png", "y/a.jpg", "z/a_x2.png")
    with pytest.raises(UsageError, match=r"result of x/a.png would replace the input itself"):
        plan("x", tag="")
    with pytest.raises(UsageError, match=r"result of y/a.jpg would replace the input z/a_x2.png"):
        plan("y/a.jpg", "z/a_x2.png", output="z")
    fill("z/a.png")
    Path("link").symlink_to("z")
    with pytest.raises(UsageError, match="would replace the input"):
        plan("z/a.png", output="link/a.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(place):
    fill("a.png", "locked/b.png")
    (place / "locked").chmod(0o500)
    with pytest.raises(UsageError, match="cannot write to locked"):
        plan("a.png", output="locked/")
    (place / "locked").chmod(0o700)


def test_pictures_that_cannot_be_listed_are_left_out(place):
    fill("in/a.png")
    with pytest.raises(UsageError, match=r"no pictures in a/, b$"):
        for name in ("a", "b"):
            (place / name).mkdir()
        plan("a/", "b")
    assert plan("a/", "in")[0] == {"in/a.png": "in/a_x2.png"}


@pytest.mark.parametrize("tag", ["/x", "a/../b", "a\0"])
def test_a_suffix_is_a_part_of_a_name(tag):
    with pytest.raises(UsageError, match="must be a part of a file name"):
        Naming(tag)
