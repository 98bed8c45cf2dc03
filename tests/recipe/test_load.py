import re
import tomllib

import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.quant.sites import KINDS, TENSORS
from sr_quant_cli.recipe.load import (
    Change,
    dump_recipe,
    load_recipe,
    recipe_names,
    validate_recipe,
)
from sr_quant_cli.recipe.schema import QuantizeRecipe, SitesSection


@pytest.mark.parametrize("name", recipe_names())
def test_built_in_recipes_are_valid_and_named_as_their_file(name):
    assert load_recipe(name).recipe.name == name


def test_a_dumped_recipe_is_the_same_recipe(tmp_path):
    recipe = load_recipe("pretrain-edsr", ["train.iters=7", "optim.lr=3e-4"])
    (tmp_path / "r.toml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "r.toml")) == recipe
    assert tomllib.loads(dump_recipe(recipe))["train"]["iters"] == 7


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.iters=1000", "train", "iters", 1000),
        ("data.train=some/folder", "data", "train", "some/folder"),
        ("data.validation=['a*', 'b*']", "data", "validation", ["a*", "b*"]),
        ("network.scale=3", "network", "scale", 3),
    ],
)
def test_overrides_take_toml_values_or_plain_text(override, section, key, value):
    recipe = load_recipe("pretrain-edsr", [override])
    assert getattr(getattr(recipe, section), key) == value


def test_every_error_is_reported_at_once_with_place_value_and_nearest_name():
    with pytest.raises(UsageError) as caught:
        load_recipe(
            "pretrain-edsr",
            ["train.itres=5", "network.nblocks=3", "train.batch=0", "optim.lr='fast'"],
        )
    assert sorted(str(caught.value).splitlines()) == [
        "--set network.nblocks=3: unknown key, did you mean network.n_blocks?",
        "--set optim.lr='fast': must be a number",
        "--set train.batch=0: must be 1 to 65536",
        "--set train.itres=5: unknown key, did you mean train.iters?",
    ]


def test_errors_in_a_file_name_it_its_keys_and_values(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(
        '[recipe]\nname = "my"\ntask = "pretrain"\n[network]\nname = "edsr"\nn_blocks = 0\n'
        '[train]\nbatch = "many"\nloss = "l3"\n[optim]\nbetas = [0.9, 1.0]\n'
    )
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    assert sorted(str(caught.value).splitlines()) == [
        f"{path}: network.n_blocks = 0: must be 1 to 65536",
        f"{path}: optim.betas.1 = 1.0: must be at least 0 and below 1",
        f"{path}: train.batch = 'many': must be a whole number",
        f"{path}: train.loss = 'l3': must be 'l1' or 'l2'",
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Change("bits.w", 9, "--w 9"), "--w 9: must be 2 to 8"),
        (Change("data.patch_hr", 2, "--patch 1"), "--patch 1: data.patch_hr = 2: must be 16 to"),
        (Change("data.train", 2020, "--data 2020"), "--data 2020: must be text"),
        ("seed=1", "--set seed=1: unknown key, did you mean recipe.seed?"),
        ("lr=1", "--set lr=1: unknown key, did you mean data.lr or optim.lr?"),
        ("tran.batch=1", "--set tran.batch=1: unknown key, did you mean train?"),
        ("train={foo=1}", "--set train={foo=1}: foo: unknown key, allowed here: batch, "),
        ("bits.w=9", "--set bits.w=9: must be 2 to 8"),
        ("data.patch_hr=194", "--set data.patch_hr=194: must be a multiple of the scale 4"),
        ("network.name=esdr", "--set network.name=esdr: unknown network 'esdr': did you mean"),
        ("recipe.task=distill", "--set recipe.task=distill: recipe daq-edsr is for 'srq quantize'"),
        (f"{'a' * 5000}=1", f"--set {'a' * 57}...: {'a' * 57}...: unknown key, allowed here: "),
        (".".join("a" * 100_000) + "=1", "--set a.a.a"),
        (f"train.iters={'9' * 5000}", "--set train.iters=9999"),
        (f"train.iters={'9' * 400}", "--set train.iters=9999"),
        (f"train.iters={'[' * 5000}", "--set train.iters=[[["),
        ("optim.betas=[-1, 0.5]", "--set optim.betas=[-1, 0.5]: must be at least 0 and below 1"),
        ("optim.betas=[0.5]", "--set optim.betas=[0.5]: must have at least 2 entries"),
        ("network.res_scale=inf", "--set network.res_scale=inf: must be a finite number"),
        ("network.res_scale=1e308", "--set network.res_scale=1e308: must be above 0 and at most"),
    ],
)
def test_an_error_in_a_change_begins_with_what_was_typed(change, line):
    with pytest.raises(UsageError) as caught:
        load_recipe("daq-edsr", [change])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "a." * 100_000 + "a = 1",
        "[" + "a." * 100_000 + "a]",
        "a = " + "[" * 100_000,
        "a = " + "{a=" * 100_000,
        f"a = {'9' * 5000}",
        f"a = '{'a' * 2**21}'",
        "a = [",
    ],
)
def test_a_file_that_no_reader_of_toml_takes_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_last_change_of_a_field_counts_and_is_blamed():
    assert load_recipe("daq-edsr", ["bits.w=9", "bits.w=3"], QuantizeRecipe).bits.w == 3
    with pytest.raises(UsageError, match=r"^--w 1: must be 2 to 8$"):
        load_recipe("daq-edsr", ["bits.w=3", Change("bits.w", 1, "--w 1")])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network.name=esdr", "did you mean 'edsr'"),
        ("network.scale=5", "--set network.scale=5: must be 2, 3 or 4"),
        ("data.patch_hr=194", "multiple of the scale"),
        ("optim.lr=nan", "finite"),
        ("train", "section.key=value"),
        ("train.iters.deep=1", "no section"),
        ("recipe.task=quantize", "pretrain"),
    ],
)
def test_single_errors(override, message):
    with pytest.raises(UsageError, match=message):
        load_recipe("pretrain-edsr", [override])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sites.upsampler=int8", {"input": "int8", "weight": "int8"}),
        ("sites.upsampler.weight=low", {"weight": "low"}),
        ("sites.upsampler={input='fp32', weight='low'}", {"input": "fp32", "weight": "low"}),
    ],
)
def test_a_kind_of_site_takes_one_precision_or_a_table(tmp_path, override, expected):
    recipe = load_recipe("minmax-edsr", [override], QuantizeRecipe)
    assert recipe.sites.changes() == {"upsampler": expected}
    (tmp_path / "r.toml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "r.toml")) == recipe


def test_every_kind_of_site_can_be_set():
    assert set(SitesSection.model_fields) == {"placement", *KINDS}
    for kind in KINDS:
        recipe = load_recipe("minmax-edsr", [f"sites.{kind}=int8"], QuantizeRecipe)
        (operands,) = recipe.sites.changes().values()
        assert ("weight" in operands) == (kind not in (*TENSORS, "matmul"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sites.upsampler=int4", r": must be one of fp32, int8, low, or"),
        ("sites.upsampler.bias=low", r": .* for input and weight$"),
        ("sites.upsampler.input=['low']", r": must be one of"),
        ("sites.skip.weight=low", r": .* for input, it has no weight$"),
        ("sites.matmul.weight=low", r": .* it has no weight$"),
        ("sites.upsamplr=int8", r": unknown key, did you mean sites\.upsampler\?$"),
    ],
)
def test_nonsense_at_a_site_is_told_in_one_line(override, message):
    with pytest.raises(UsageError, match=f"^--set {re.escape(override)}{message}") as refused:
        load_recipe("minmax-edsr", [override])
    assert "\n" not in str(refused.value)


def test_a_recipe_without_a_network_says_so():
    with pytest.raises(UsageError, match="network: is missing"):
        validate_recipe({"recipe": {"name": "a", "task": "pretrain"}}, "a.toml")
    with pytest.raises(UsageError, match="needs name"):
        validate_recipe(
            {"recipe": {"name": "a", "task": "pretrain"}, "network": {"scale": 2}}, "a.toml"
        )


def test_unknown_recipes_and_broken_files(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'pretrain-edsr'"):
        load_recipe("pretrain-edrs")
    with pytest.raises(UsageError, match="no such recipe file"):
        load_recipe("none.toml")
    (tmp_path / "broken.toml").write_text("a = [")
    with pytest.raises(UsageError, match=r"broken\.toml: not a readable TOML file"):
        load_recipe(str(tmp_path / "broken.toml"))
