import numpy as np
import pytest
import pyvips
import torch

from sr_quant_cli.commands.batch import BatchOptions, run_jobs
from sr_quant_cli.commands.jobs import UpscaleJob
from sr_quant_cli.commands.scaled_models import ScaledModels
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.inference.upscaler import BicubicUpscaler
from sr_quant_cli.methods import build
from sr_quant_cli.methods.daq import DAQConfig
from sr_quant_cli.methods.ddtb import DDTBConfig
from sr_quant_cli.methods.minmax import MinMaxConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import picture, tiny_edsr

CPU = torch.device("cpu")


def in_torch(network, name, tile=None):
    return TiledUpscaler(TorchRuntime(network, CPU), traits_of_network(network, name), tile)


def upscaler(scale=2, tile=None):
    return in_torch(tiny_edsr(scale), "tiny", tile)


def upscale_file(engine, source, target, *, overwrite=False):
    options = BatchOptions(overwrite=overwrite)
    (done,) = run_jobs(ScaledModels(engine), [UpscaleJob(source, target)], options)
    return done


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width", "tile"), [(37, 53, 16), (41, 23, 7), (29, 60, 29)])
def test_tiles_join_to_the_whole_picture_on_odd_sizes(scale, height, width, tile):
    lr = picture(height, width)
    whole, tiled = upscaler(scale)(lr), upscaler(scale, tile)(lr)
    assert whole.shape == (height * scale, width * scale, 3)
    assert (np.abs(whole.astype(int) - tiled) > 0).mean() <= 1e-4
    assert np.abs(whole.astype(int) - tiled).max() <= 1


@pytest.mark.parametrize(
    ("config", "warned"), [(DAQConfig(), True), (DDTBConfig(), True), (MinMaxConfig(), False)]
)
def test_tiles_of_a_dynamic_method_are_warned_of_once(config, warned, capsys):
    network, method = tiny_edsr(), build(config)
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    method.calibrate(network, [torch.rand(2, 3, 12, 12)])
    lr = picture(20, 30)
    in_torch(network, "q")(lr)
    assert capsys.readouterr().err == ""
    tiled = in_torch(network, "q", tile=16)
    tiled(lr)
    tiled(lr)
    assert capsys.readouterr().err.count("srq: warning: q: its ranges or bits") == warned


def test_tiles_of_floats_differ_only_by_summation_order():
    network = tiny_edsr(4)
    halo = network.receptive_radius
    x = torch.rand(1, 3, 31, 45)
    with torch.inference_mode():
        whole = network(x)
        # A tile that keeps rows 10..20 and columns 15..30.
        tile = network(x[:, :, 10 - halo : 20 + halo, 15 - halo : 30 + halo])
    kept = tile[:, :, 4 * halo : -4 * halo, 4 * halo : -4 * halo]
    assert (kept - whole[:, :, 40:80, 60:120]).abs().max() <= 1e-5


def test_a_halo_too_small_shows_a_seam():
    # The test above would pass for any halo if the network were blind to it.
    network = tiny_edsr(2)
    x = torch.rand(1, 3, 31, 45)
    with torch.inference_mode():
        whole, tile = network(x), network(x[:, :, 9:21, 14:31])
    assert (tile[:, :, 2:-2, 2:-2] - whole[:, :, 20:40, 30:60]).abs().max() > 1e-4


def test_a_file_becomes_its_enlargement(tmp_path):
    lr = picture(20, 31)
    write_rgb(tmp_path / "a.png", lr)
    done = upscale_file(upscaler(tile=8), tmp_path / "a.png", tmp_path / "b.png")
    assert (done.width, done.height) == (62, 40)
    assert np.array_equal(read_rgb(tmp_path / "b.png"), upscaler(tile=8)(lr))


def test_grey_stays_grey(tmp_path):
    grey = picture(20, 31)[:, :, 0]
    pyvips.Image.new_from_array(grey).write_to_file(str(tmp_path / "g.png"))
    upscale_file(upscaler(), tmp_path / "g.png", tmp_path / "o.png")
    out = pyvips.Image.new_from_file(str(tmp_path / "o.png"))
    assert (out.bands, out.width, out.height) == (1, 62, 40)
    expected = upscaler()(np.repeat(grey[:, :, None], 3, axis=2)).mean(axis=2)
    assert np.abs(out.numpy() - expected).max() <= 0.5


def save_rgba(path, rgb, alpha):
    pyvips.Image.new_from_array(np.dstack([rgb, alpha])).write_to_file(str(path))
    return path


def enlarged(tmp_path, source, name="o.png", engine=None):
    upscale_file(engine or upscaler(), source, tmp_path / name, overwrite=True)
    return pyvips.Image.new_from_file(str(tmp_path / name)).numpy()


def test_transparency_is_enlarged_with_the_picture(tmp_path):
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:, 15:] = 255
    out = enlarged(tmp_path, save_rgba(tmp_path / "a.png", picture(20, 30), alpha))
    assert out.shape == (40, 60, 4)
    assert np.interp(127.5, out[20, :, 3].astype(float), np.arange(60)) == 29.5
    assert (out[:, :26, 3] == 0).all()
    assert (out[:, 34:, 3] == 255).all()


def test_hidden_colours_change_nothing_that_is_visible(tmp_path):
    alpha = (picture(20, 30, seed=3)[:, :, 0] > 120).astype(np.uint8) * 255
    made = []
    for seed in (1, 2):
        hidden = np.where(alpha[:, :, None] > 0, picture(20, 30), picture(20, 30, seed=seed))
        made.append(enlarged(tmp_path, save_rgba(tmp_path / "a.png", hidden, alpha)))
    assert np.array_equal(*made)
    raw = upscaler()(hidden)
    assert np.abs(made[1][:, :, :3].astype(int) - raw)[made[1][:, :, 3] == 255].max() > 8


def test_an_edge_to_transparency_has_the_colour_of_what_is_visible(tmp_path):
    """Bicubic interpolation would draw dark rings if black lies below alpha 0."""
    y, x = np.mgrid[:40, :40]
    alpha = np.clip(255 * (15 - np.hypot(x - 19.5, y - 19.5)), 0, 255).astype(np.uint8)
    disc = np.where(alpha[:, :, None] > 0, np.array([220, 30, 30]), 0).astype(np.uint8)
    source = save_rgba(tmp_path / "a.png", disc, alpha)
    out = enlarged(tmp_path, source, engine=BicubicUpscaler(4)).astype(int)
    assert np.abs(out[:, :, :3] - (220, 30, 30))[out[:, :, 3] > 0].max() <= 2


def test_an_opaque_alpha_changes_nothing(tmp_path):
    rgb = picture(20, 30)
    source = save_rgba(tmp_path / "a.png", rgb, np.full((20, 30), 255, np.uint8))
    out = enlarged(tmp_path, source)
    assert np.array_equal(out[:, :, :3], upscaler()(rgb))
    assert (out[:, :, 3] == 255).all()
    assert enlarged(tmp_path, source, "o.jpg").shape == (40, 60, 3)  # nothing is lost
    save_rgba(source, rgb, picture(20, 30)[:, :, 0])
    with pytest.raises(UsageError, match="JPEG holds no transparency"):
        enlarged(tmp_path, source, "p.jpg")


def test_what_is_hidden_throughout_stays_as_it_is(tmp_path):
    source = save_rgba(tmp_path / "a.png", picture(20, 30), np.zeros((20, 30), np.uint8))
    out = enlarged(tmp_path, source)
    assert np.array_equal(out[:, :, :3], upscaler()(picture(20, 30)))
    assert (out[:, :, 3] == 0).all()


def test_the_colour_profile_is_kept(tmp_path):
    image = pyvips.Image.new_from_array(picture(9, 9)).copy()
    profile = pyvips.Image.new_from_array(picture(2, 2)).icc_export(output_profile="srgb")
    blob = profile.get("icc-profile-data")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", blob)
    image.write_to_file(str(tmp_path / "i.png"))
    upscale_file(upscaler(), tmp_path / "i.png", tmp_path / "o.png")
    kept = pyvips.Image.new_from_file(str(tmp_path / "o.png")).get("icc-profile-data")
    assert kept == blob


def test_nothing_is_overwritten_unasked(tmp_path):
    write_rgb(tmp_path / "a.png", picture(5, 5))
    (tmp_path / "o.png").write_text("precious")
    places = (tmp_path / "a.png", tmp_path / "o.png")
    with pytest.raises(UsageError, match="exists; use `overwrite` to replace it"):
        upscale_file(upscaler(), *places)
    assert (tmp_path / "o.png").read_text() == "precious"
    upscale_file(upscaler(), *places, overwrite=True)
    assert read_rgb(tmp_path / "o.png").shape == (10, 10, 3)


def test_only_a_tile_is_read_and_a_band_held_at_a_time():
    lr = picture(60, 50)
    engine = upscaler(tile=16)
    halo = tiny_edsr().receptive_radius
    reads = []

    def read(top, bottom, left, right):
        reads.append((top, bottom, left, right))
        return lr[top:bottom, left:right]

    bands = engine.bands(read, 60, 50)
    first = next(bands)
    assert first.shape == (30, 100, 3)  # 60 rows are four tiles of 15
    assert len(reads) == 4  # one row of tiles; the rest waits until it is asked for
    assert [band.shape[0] for band in bands] == [30, 30, 30]
    assert len(reads) == engine.tile_count(60, 50) == 16
    assert max(bottom - top for top, bottom, _, _ in reads) <= 16 + 2 * halo
    assert max(right - left for _, _, left, right in reads) <= 16 + 2 * halo


def test_tiles_shrink_with_the_memory_of_the_network():
    small, large = upscaler(2), upscaler(4)
    assert large.tile_size(6000, 6000) <= small.tile_size(6000, 6000) <= 584
    assert small.tile_size(100, 300) == 300
