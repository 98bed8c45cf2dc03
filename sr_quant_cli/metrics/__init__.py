"""PSNR and SSIM under named protocols."""

from sr_quant_cli.metrics.protocol import (
    PROTOCOLS,
    Luma,
    Protocol,
    Score,
    get_protocol,
    luma,
    psnr,
    rgb_psnr,
    score,
    ssim,
)

__all__ = [
    "PROTOCOLS",
    "Luma",
    "Protocol",
    "Score",
    "get_protocol",
    "luma",
    "psnr",
    "rgb_psnr",
    "score",
    "ssim",
]
