"""Named protocols, PSNR, SSIM."""
