"""What became of the answers and of the images: accuracies with intervals, comparisons, PSNR, SSIM and PASS."""
