"""How well a tokenizer rebuilds clips, and what it keeps of them."""

from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.methods.averages import Averages


def measure_pixels(rebuilt: Tensor, real: Tensor, averages: Averages) -> None:
    """Add PSNR and SSIM of each clip, and the PSNR of its mean colour, for ``[batch, 3, frames, rows, columns]``."""
    # Here, since torchmetrics loads transformers and scipy: seconds for each process, of any kind of run.
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    psnr = {"dim": (1, 2, 3, 4), "reduction": "none", "data_range": 1.0}
    averages.add("validation/psnr", peak_signal_noise_ratio(rebuilt, real, **psnr))
    mean = real.mean((2, 3, 4), keepdim=True).expand_as(real)
    averages.add("validation/psnr_mean_colour", peak_signal_noise_ratio(mean, real, **psnr))
    shown, wanted = (part.transpose(1, 2).flatten(0, 1) for part in (rebuilt, real))
    ssim = structural_similarity_index_measure(shown, wanted, data_range=1.0, reduction="none")
    assert isinstance(ssim, Tensor)
    averages.add("validation/ssim", ssim.unflatten(0, (len(real), -1)).mean(1))


def measure_kept(name: str, kept: Tensor, shows: Tensor, grid: TokenGrid, averages: Averages) -> None:
    """Add which share of the kept tokens show something, and of all tokens; without the first slice, always kept.

    Args:
        name: What they show.
        kept: ``[batch, tokens]``, 1 or 0.
        shows: bool ``[batch, tokens]``; clips that show nothing are left out.
        grid: How the clip is cut.
        averages: Where to.
    """
    kept, shows = kept[:, grid.slot_tokens :], shows[:, grid.slot_tokens :].float()
    known = shows.sum(1) > 0
    averages.add(f"validation/kept_on_{name}", ((kept * shows).sum(1) / kept.sum(1))[known])
    averages.add(f"validation/tokens_on_{name}", shows.mean(1)[known])
