import math
from dataclasses import replace

import numpy as np
import pytest

from sr_quant_cli.data.benchmark import find_set
from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.errors import UsageError
from sr_quant_cli.metrics import PROTOCOLS, Luma, get_protocol, luma, psnr, score, ssim

MATLAB, BASICSR = PROTOCOLS["matlab"], PROTOCOLS["basicsr"]
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def noisy(image, amplitude=20):
    error = np.random.default_rng(9).integers(-amplitude, amplitude + 1, image.shape)
    return (image + error).clip(0, 255).astype(np.uint8)


def ssim_directly(a, b):
    """SSIM by the paper's equation 13, with explicit windows and weights."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (m[top : top + 11, left : left + 11] for m in (a, b))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            cov = (window * (x - mx) * (y - my)).sum()
            values.append(
                (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
            )
    return np.mean(values)


@pytest.mark.parametrize("protocol", [MATLAB, BASICSR], ids=["matlab", "basicsr"])
@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), 235.0),
        ((0, 0, 0), 16.0),
        ((255, 0, 0), 81.481),
        ((0, 255, 0), 144.553),
        ((0, 0, 255), 40.966),
        ((51, 102, 204), 16 + 0.2 * 65.481 + 0.4 * 128.553 + 0.8 * 24.966),
    ],
)
def test_luma_by_hand(protocol, rgb, expected):
    values = luma(np.full((2, 3, 3), rgb, np.uint8), protocol.psnr_luma)
    assert values.shape == (2, 3)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, atol=2e-5)


def test_protocols_differ_in_precision_only():
    image = noise(40, 40, 3)
    exact, single = (luma(image, protocol.psnr_luma) for protocol in (MATLAB, BASICSR))
    assert (single == single.astype(np.float32)).all()
    assert 0 < np.abs(exact - single).max() < 5e-5


def test_psnr_by_hand():
    a = np.full((10, 10), 100.0)
    assert psnr(a, a + 1) == pytest.approx(48.1308, abs=1e-4)  # 20 log10 255
    b = a.copy()
    b[0, 0] = 110  # mean squared error 1
    assert psnr(a, b) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(np.zeros((2, 2)), np.full((2, 2), 255.0)) == 0


def test_score_by_hand():
    # 10 levels of grey are 10 * 219 / 255 levels of luma.
    hr = np.full((20, 20, 3), 100, np.uint8)
    expected = 20 * math.log10(255 / (10 * 219 / 255))
    assert score(hr + np.uint8(10), hr, 2, MATLAB).psnr == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(11, 11), (11, 30), (24, 17)])
def test_ssim_equals_the_definition(shape):
    a = noise(*shape).astype(float)
    b = noisy(noise(*shape), 60).astype(float)
    assert ssim(a, b) == pytest.approx(ssim_directly(a, b), abs=1e-10)
    assert ssim(a, b) < 0.99


def test_ssim_of_two_greys_by_hand():
    # No variance: (2 * 100 * 120 + C1) / (100^2 + 120^2 + C1), C1 = 2.55^2.
    a, b = np.full((12, 12), 100.0), np.full((12, 12), 120.0)
    assert ssim(a, b) == pytest.approx(24006.5025 / 24406.5025, abs=1e-9)


@each_protocol
def test_identical_pictures(protocol):
    image = noise(32, 32, 3)
    scored = score(image, image, 4, protocol)
    assert scored.psnr == math.inf
    assert scored.ssim == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_crop_is_scale_pixels_from_every_side(scale):
    hr = noise(40, 36, 3)
    for row, column in [(scale - 1, 18), (-scale, 18), (20, scale - 1), (20, -scale)]:
        sr = hr.copy()
        sr[row, column] ^= 128
        assert score(sr, hr, scale, MATLAB).psnr == math.inf
    for row, column in [(scale, 18), (-scale - 1, 18), (20, scale), (20, -scale - 1)]:
        sr = hr.copy()
        sr[row, column] ^= 128
        assert score(sr, hr, scale, MATLAB).psnr < 60


def test_luma_weights_are_data():
    # A new protocol is an entry of the table and needs no code.
    red = Luma((255.0, 0.0, 0.0), 0.0)
    image = noise(24, 24, 3)
    np.testing.assert_allclose(luma(image, red), image[..., 0], atol=1e-12)
    other = image.copy()
    other[..., 1:] ^= 255
    assert score(other, image, 2, replace(MATLAB, psnr_luma=red, ssim_luma=red)).psnr == math.inf


def test_refuses_what_cannot_be_compared():
    hr = noise(24, 30, 3)
    with pytest.raises(ValueError, match="SR is 30x23, HR 30x24: sizes differ"):
        score(hr[:23], hr, 2, MATLAB)
    with pytest.raises(ValueError, match="SR must be uint8"):
        score(hr.astype(np.float32), hr, 2, MATLAB)
    with pytest.raises(ValueError, match="HR must be uint8"):
        score(hr, hr[..., 0], 2, MATLAB)


def test_refuses_what_is_smaller_than_the_window():
    image = noise(18, 40, 3)
    with pytest.raises(ValueError, match="40x18 is too small at x4: SSIM needs 19x19"):
        score(image, image, 4, MATLAB)
    assert score(noise(19, 19, 3), noise(19, 19, 3), 4, MATLAB).ssim == pytest.approx(1)


def test_unknown_protocol_suggests():
    assert get_protocol("basicsr") is BASICSR
    with pytest.raises(UsageError, match=r"unknown protocol 'matlb': did you mean 'matlab'\?"):
        get_protocol("matlb")


def bicubic_figures(root, name, scale, protocol):
    scores = []
    for pair in find_set(name, scale, root).pairs:
        lr, hr = pair.load(scale)
        scored = score(enlarge(lr, scale), hr, scale, protocol)
        scores.append((scored.psnr, scored.ssim))
    return np.mean(scores, axis=0)


@pytest.mark.parametrize(
    ("name", "scale", "published_psnr", "published_ssim"),
    [
        ("Set5", 2, 33.66, 0.9299),
        ("Set5", 3, 30.39, 0.8682),
        ("Set5", 4, 28.42, 0.8104),
        pytest.param("B100", 2, 29.56, 0.8431, marks=pytest.mark.slow),
        pytest.param("B100", 4, 25.96, 0.6675, marks=pytest.mark.slow),
    ],
)
def test_bicubic_row_of_the_papers(real_data, name, scale, published_psnr, published_ssim):
    psnr_mean, ssim_mean = bicubic_figures(real_data, name, scale, MATLAB)
    assert psnr_mean == pytest.approx(published_psnr, abs=0.02)
    assert ssim_mean == pytest.approx(published_ssim, abs=0.001)


@pytest.mark.slow
def test_bicubic_row_of_set14_and_its_grey_picture(real_data):
    # Papers print 26.00 or 26.10: the bicubic figures of 2014 measured bridge.png as it is, 0..255;
    # as three channels its luma spans 219 levels, 20 log10(255 / 219) dB more on one of 14.
    psnr_mean, _ = bicubic_figures(real_data, "Set14", 4, MATLAB)
    assert psnr_mean == pytest.approx(26.09, abs=0.005)
    assert psnr_mean - 20 * math.log10(255 / 219) / 14 == pytest.approx(26.00, abs=0.02)


def test_protocols_agree_to_the_printed_digits(real_data):
    for pair in find_set("Set5", 4, real_data).pairs:
        lr, hr = pair.load(4)
        sr = enlarge(lr, 4)
        matlab, basicsr = score(sr, hr, 4, MATLAB), score(sr, hr, 4, BASICSR)
        assert matlab.psnr == pytest.approx(basicsr.psnr, abs=1e-5)
        assert matlab.ssim == pytest.approx(basicsr.ssim, abs=1e-6)


@each_protocol
@pytest.mark.parametrize("strip", [1, 50 * 13, 50 * 46, 2**21])
def test_strips_give_the_figures_of_the_whole_picture(monkeypatch, protocol, strip):
    hr = noise(64, 58, 3)
    sr = noisy(hr)
    whole = score(sr, hr, 4, protocol)
    monkeypatch.setattr("sr_quant_cli.metrics.protocol.STRIP", strip)
    scored = score(sr, hr, 4, protocol)
    assert scored.psnr == pytest.approx(whole.psnr, abs=1e-9)
    assert scored.ssim == pytest.approx(whole.ssim, abs=1e-12)


@pytest.mark.parametrize("protocol", [MATLAB, BASICSR], ids=["matlab", "basicsr"])
def test_a_score_is_that_of_the_luma_inside(protocol):
    hr = noise(64, 58, 3)
    sr = noisy(hr)
    a, b = (luma(image[4:-4, 4:-4], protocol.psnr_luma) for image in (sr, hr))
    scored = score(sr, hr, 4, protocol)
    assert scored.psnr == pytest.approx(psnr(a, b), abs=1e-9)
    assert scored.ssim == pytest.approx(ssim(a, b), abs=1e-12)


@pytest.mark.parametrize(("name", "border"), [("rgb", 4), ("div2k", 10)])
def test_protocols_of_colours(name, border):
    hr = noise(64, 58, 3)
    sr = noisy(hr)
    a, b = (image[border:-border, border:-border].astype(float) for image in (sr, hr))
    scored = score(sr, hr, 4, PROTOCOLS[name])
    assert scored.psnr == pytest.approx(20 * math.log10(255 / np.sqrt(np.mean((a - b) ** 2))))
    expected = np.mean([ssim_directly(a[..., c], b[..., c]) for c in range(3)])
    assert scored.ssim == pytest.approx(expected, abs=1e-9)


def test_cadyq_measures_ssim_on_a_luma_of_its_own():
    hr = noise(64, 58, 3)
    sr = noisy(hr, 60)
    inner = [image[4:-4, 4:-4].astype(float) for image in (sr, hr)]
    weights = np.array([65.738, 129.057, 25.064])
    a, b = (image @ weights / 255 + 16 for image in inner)
    scored = score(sr, hr, 4, PROTOCOLS["cadyq"])
    assert scored.ssim == pytest.approx(ssim_directly(a, b), abs=1e-9)
    a, b = (image @ weights / 256 for image in inner)
    assert scored.psnr == pytest.approx(psnr(a, b), abs=1e-9)


def test_daq_measures_with_edges_repeated():
    # Measured with the metrics of Cheeun/DAQ-pytorch, commit 28c56e4, in float32.
    hr = noise(64, 58, 3)
    scored = score(noisy(hr, 60), hr, 4, PROTOCOLS["daq"])
    assert scored.psnr == pytest.approx(22.759154, abs=1e-5)
    assert scored.ssim == pytest.approx(0.901981, abs=1e-5)
    assert score(noisy(hr, 60), hr, 4, MATLAB).ssim != pytest.approx(0.901981, abs=1e-4)


def test_daq_figures_of_bicubic_on_set5(real_data):
    # Measured with the same metrics on MATLAB's LR, enlarged by `enlarge`.
    figures = bicubic_figures(real_data, "Set5", 4, PROTOCOLS["daq"])
    assert figures == pytest.approx([28.42901, 0.80954], abs=1e-5)


def test_no_more_than_a_strip_is_measured_at_a_time(monkeypatch):
    seen = []
    monkeypatch.setattr("sr_quant_cli.metrics.protocol.STRIP", 50 * 20)
    monkeypatch.setattr(
        "sr_quant_cli.metrics.protocol.ssim", lambda a, b: seen.append(a.shape) or 1.0
    )
    assert score(noise(108, 58, 3), noise(108, 58, 3), 4, MATLAB).ssim == pytest.approx(1)
    assert seen == [(30, 50)] * 4 + [(20, 50)]


def test_a_frame_shows_in_the_edge_figure_alone():
    hr = np.full((30, 25, 3), 100, np.uint8)
    sr = hr + np.uint8(10)
    sr[4:-4, 4:-4] = 100
    scored = score(sr, hr, 4, MATLAB)
    assert (scored.psnr, scored.ssim) == (float("inf"), 1)
    # A grey level is 219 / 255 of a level of luma.
    assert scored.edge == pytest.approx(20 * np.log10(255 / (10 * 219 / 255)), abs=1e-3)
