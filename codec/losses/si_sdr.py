"""Scale-invariant signal-to-distortion ratio, as a loss.

With c the cosine of the angle between estimate and target, the ratio of Le Roux et al. 2019 ("SDR - half-baked or well
done?", eq. 5) is c² / (1 - c²): the share of the estimate's energy that a multiple of the target explains, over what
it leaves. Written so, both shares are between 0 and 1, and a small number added to them bounds the loss.
"""

from torch import Tensor

# Added to both shares, so that the loss stays within ±50 dB; at 30 dB it is off by 0.04 dB.
SHARE_FLOOR = 1e-5
# A target of less power, -54 dB of full scale, counts as if it had that much.
TARGET_FLOOR = 4e-6
# An estimate of less power than this times the target's, -40 dB, counts as if it had that much: the quieter an
# estimate, the larger the gradient of what does not depend on its level.
ESTIMATE_FLOOR = 1e-4


def si_sdr_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """Negative SI-SDR in dB, mean over examples and channels; no mean is removed.

    It is between -50 (a multiple of the target) and 50 (an estimate that is silent or orthogonal to the target; also
    a silent target, which gives no gradient). Neither level nor sign of the estimate matter, so another loss has to
    tell them.

    Args:
        estimate: [batch, channels, time]; float32 whatever autocast says.
        target: Likewise.
    """
    estimate, target = estimate.float(), target.float()
    target_power = target.square().mean(-1).clamp_min(TARGET_FLOOR)
    estimate_power = estimate.square().mean(-1).maximum(ESTIMATE_FLOOR * target_power)
    explained = (estimate * target).mean(-1).square() / (target_power * estimate_power)
    ratio = (explained + SHARE_FLOOR) / (1 - explained + SHARE_FLOOR)
    return -10 * ratio.log10().mean()
