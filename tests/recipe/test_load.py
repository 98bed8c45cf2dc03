import re
import tomllib

import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.networks import build
from sr_quant_cli.quant.sites import KINDS, Operands, Site, has_weight
from sr_quant_cli.quant.widths import NarrowBits
from sr_quant_cli.recipe.load import (
    Change,
    dump_recipe,
    load_recipe,
    recipe_names,
    validate_recipe,
)
from sr_quant_cli.recipe.schema import AnyNetwork, QuantizeRecipe
from sr_quant_cli.recipe.texts import recipe_text


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
        "`overrides` network.nblocks=3: unknown key, did you mean network.n_blocks?",
        "`overrides` optim.lr='fast': must be a number",
        "`overrides` train.batch=0: must be 1 to 65536",
        "`overrides` train.itres=5: unknown key, did you mean train.iters?",
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
        (Change.of("bits.w", 9, "w"), "`w` 9: must be 2 to 8 (bits), or an odd number from 3L to"),
        (Change.of("bits.w", "28L", "w"), "`w` 28L: must be 2 to 8 (bits), or an odd number from"),
        (Change.of("bits.a", "2L", "a"), "`a` 2L: must be 2 to 8 (bits), or 3L to 256L (levels)"),
        (Change.of("data.patch_hr", 2, "patch", 1), "`patch` 1: data.patch_hr = 2: must be 16 to"),
        (Change.of("data.train", 2020, "data"), "`data` 2020: must be text"),
        ("seed=1", "`overrides` seed=1: unknown key, did you mean recipe.seed?"),
        ("lr=1", "`overrides` lr=1: unknown key, did you mean data.lr or optim.lr?"),
        ("tran.batch=1", "`overrides` tran.batch=1: unknown key, did you mean train?"),
        ("train={foo=1}", "`overrides` train={foo=1}: foo: unknown key, allowed here: batch, "),
        ("bits.w=9", "`overrides` bits.w=9: must be 2 to 8"),
        ("data.patch_hr=194", "`overrides` data.patch_hr=194: must be a multiple of the scale 4"),
        (
            "network.name=esdr",
            "`overrides` network.name=esdr: unknown network 'esdr': did you mean",
        ),
        (
            "recipe.task=distill",
            "`overrides` recipe.task=distill: recipe daq-edsr is for 'srq quantize'",
        ),
        (
            f"{'a' * 5000}=1",
            f"`overrides` {'a' * 57}...: {'a' * 57}...: unknown key, allowed here: ",
        ),
        (".".join("a" * 100_000) + "=1", "`overrides` a.a.a"),
        (f"train.iters={'9' * 5000}", "`overrides` train.iters=9999"),
        (f"train.iters={'9' * 400}", "`overrides` train.iters=9999"),
        (f"train.iters={'[' * 5000}", "`overrides` train.iters=[[["),
        (
            "optim.betas=[-1, 0.5]",
            "`overrides` optim.betas=[-1, 0.5]: must be at least 0 and below 1",
        ),
        ("optim.betas=[0.5]", "`overrides` optim.betas=[0.5]: must have at least 2 entries"),
        ("network.res_scale=inf", "`overrides` network.res_scale=inf: must be a finite number"),
        (
            "network.res_scale=1e308",
            "`overrides` network.res_scale=1e308: must be above 0 and at most",
        ),
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
    with pytest.raises(UsageError, match=r"^`w` 1: must be 2 to 8 \(bits\), or an odd "):
        load_recipe("daq-edsr", ["bits.w=3", Change.of("bits.w", 1, "w")])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network.name=esdr", "did you mean 'edsr'"),
        ("network.scale=5", "`overrides` network.scale=5: must be 2, 3, 4 or 8"),
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
        ("sites.upsampler=int8", {"upsampler": "int8"}),
        ("sites.upsampler=6", {"upsampler": 6}),
        ("sites.upsampler.weight=low", {"upsampler": {"weight": "low"}}),
        ("sites.upsampler.weight=29L", {"upsampler": {"weight": NarrowBits(29)}}),
        ("sites.upsampler=61L", {"upsampler": NarrowBits(61)}),
        ("sites.upsampler={input='fp32', weight=5}", {"upsampler": {"input": "fp32", "weight": 5}}),
        ('sites."body.3.conv2".weight=5', {"body.3.conv2": {"weight": 5}}),
        ('sites."body.3.skip"=6', {"body.3.skip": 6}),
        ("sites={'body.3.conv2'={input=6, weight=5}}", {"body.3.conv2": {"input": 6, "weight": 5}}),
    ],
)
def test_kinds_and_paths_of_sites_take_one_precision_or_a_table(tmp_path, override, expected):
    recipe = load_recipe("minmax-edsr", [override], QuantizeRecipe)
    assert recipe.sites.changes() == expected
    (tmp_path / "r.toml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "r.toml")) == recipe


def test_sites_in_a_file(tmp_path):
    text = recipe_text("minmax-edsr")
    path = tmp_path / "r.toml"
    path.write_text(f'{text}\n[sites."body.3.conv2"]\nweight = 5\ninput = 6\n')
    changes = ['sites."body.3.conv2".weight=8', "sites.head.weight=7"]
    recipe = load_recipe(str(path), changes, QuantizeRecipe)
    assert recipe.sites.changes() == {
        "body.3.conv2": {"weight": 8, "input": 6},
        "head": {"weight": 7},
    }


def test_a_path_overrides_its_kind_whichever_comes_first():
    for overrides in (
        ["block=4", '"body.1.conv2".weight=5'],
        ['"body.1.conv2".weight=5', "block=4"],
    ):
        recipe = load_recipe("minmax-edsr", [f"sites.{o}" for o in overrides], QuantizeRecipe)
        placement = recipe.sites.change({}, build(recipe.network).sites())
        assert placement == {"block": Operands(4, 4), "body.1.conv2": Operands(4, 5)}


def test_every_kind_of_site_can_be_set():
    for kind in KINDS:
        recipe = load_recipe("minmax-edsr", [f"sites.{kind}=int8"], QuantizeRecipe)
        placement = recipe.sites.change({}, [Site("layer", kind, 8)])
        assert placement == {kind: Operands("int8", "int8" if has_weight(kind) else "fp32")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "sites.upsampler=int4",
            r": must be one of fp32, int8, low, 2 to 8 \(bits\), or levels as 29L, or a table",
        ),
        ("sites.upsampler=9", r": must be one of fp32, int8, low, 2 to 8 \(bits\), or levels"),
        ("sites.upsampler=true", r": must be one of fp32, int8, low, 2 to 8 \(bits\), or levels"),
        ("sites.upsampler.bias=low", r": .* for input and weight$"),
        ("sites.upsampler.input=['low']", r": must be one of"),
        ("sites.skip.weight=low", r": sites of this kind have an input alone$"),
        ("sites.matmul.weight=5", r": sites of this kind have an input alone$"),
        ('sites."body.3.conv2".weight=1', r": must be one of fp32"),
        ("sites.body={3={conv2={weight=5}}}", r": .*; paths of sites are quoted, as sites\."),
        ("sites.body.3.conv2.weight=5", r": must be section\.key=value, as .*'sites\.\"body\.3\."),
        ('sites."body.3.conv2=5', r": must be section\.key=value"),
    ],
)
def test_nonsense_at_a_site_is_told_in_one_line(override, message):
    with pytest.raises(UsageError, match=f"^`overrides` {re.escape(override)}{message}") as refused:
        load_recipe("minmax-edsr", [override])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            'sites."body.3.conv9"=5',
            'sites."body.3.conv9": no such site in this network; did you mean body.3.conv2 or ',
        ),
        ("sites.upsamplr=int8", "sites.upsamplr: no such site in this network; did you mean ups"),
        ("sites.linear=5", "sites.linear: no such site in this network; it has head, block_in, "),
        ('sites."body.3.skip".weight=5', 'sites."body.3.skip".weight: sites of this kind have an'),
    ],
)
def test_a_site_that_the_network_does_not_have(override, message):
    recipe = load_recipe("minmax-edsr", [override], QuantizeRecipe)
    with pytest.raises(UsageError, match=f"^{re.escape(message)}") as refused:
        recipe.sites.change({}, build(recipe.network).sites())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("override", ["sites.upsampler=28L", "sites.upsampler.weight=28L"])
def test_weights_have_an_odd_number_of_levels(override):
    recipe = load_recipe("minmax-edsr", [override], QuantizeRecipe)
    with pytest.raises(UsageError, match=r"^sites\.upsampler\.weight: must be .* an odd number"):
        recipe.sites.change({}, build(recipe.network).sites())


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


def test_only_a_quantization_leaves_the_network_open(tmp_path):
    assert load_recipe("deploy").network == AnyNetwork()
    path = tmp_path / "r.toml"
    path.write_text('[network]\nname = "any"\n[recipe]\nname = "r"\ntask = "pretrain"\n')
    with pytest.raises(UsageError, match=r"network: unknown network 'any'"):
        load_recipe(str(path))


@pytest.mark.parametrize("value", ["true", "false", '"auto"'])
def test_steps_of_a_calibration_may_be_left_to_the_network(value):
    recipe = load_recipe("minmax-edsr", [f"calibration.mix={value}"], QuantizeRecipe)
    assert recipe.calibration.mix == tomllib.loads(f"value = {value}")["value"]


@pytest.mark.parametrize("value", ["1", '"yes"'])
def test_other_values_of_such_steps_are_refused(value):
    with pytest.raises(
        UsageError, match=r"^`overrides` calibration.mix=.*: must be true, false or auto$"
    ):
        load_recipe("minmax-edsr", [f"calibration.mix={value}"])
