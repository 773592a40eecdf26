"""What holds for every kind of discriminator in the table."""

import copy

import pytest
import torch
import torch.nn.functional as F


def two_crops(speech):
    return torch.stack([speech[0, :, 16_000:17_100], 0.1 * speech[0, :, 40_000:41_100]])


def tensors(judgement):
    return [judgement.logits, *judgement.features]


def test_examples_of_a_batch_do_not_know_of_each_other(discriminator, speech):
    batch = two_crops(speech)
    alone = [tensors(discriminator(example)) for example in batch.split(1)]
    for together, *apart in zip(tensors(discriminator(batch)), *alone, strict=True):
        torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-4)


def test_the_same_audio_gives_the_same_judgement(discriminator, speech):
    before = copy.deepcopy(discriminator.state_dict())
    first, second = (tensors(discriminator(two_crops(speech))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(before[name], value) for name, value in discriminator.state_dict().items())


def test_every_layer_hands_its_gradient_to_every_sample_and_parameter(discriminator, speech):
    waveform = two_crops(speech).requires_grad_()
    judgement = discriminator(waveform)
    for tensor in tensors(judgement):
        (gradient,) = torch.autograd.grad(tensor.square().sum(), waveform, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
    sum(tensor.square().sum() for tensor in tensors(judgement)).backward()
    assert (waveform.grad != 0).float().mean() > 0.99
    assert all(parameter.grad.abs().sum() > 0 for parameter in discriminator.parameters())


@pytest.mark.parametrize("time", [1, 2, 3, 15, 16, 17, 63, 64, 65, 1000])
def test_audio_of_any_length_is_judged(discriminator, time):
    judgement = discriminator(torch.randn(2, 1, time))
    assert all(tensor.shape[0] == 2 and tensor.numel() > 0 for tensor in tensors(judgement))
    assert all(tensor.isfinite().all() for tensor in tensors(judgement))


@pytest.mark.parametrize("shape", [(2, 1, 0), (1, 2, 100), (1, 100)])
def test_another_shape_is_refused(discriminator, shape):
    with pytest.raises(ValueError, match=r"waveform must be \[batch, 1, time\], of 1 sample or more; got \["):
        discriminator(torch.zeros(shape))


def test_autocast_computes_layers_in_bfloat16_and_hands_out_float32_logits(discriminator, speech):
    exact = discriminator(two_crops(speech))
    waveform = two_crops(speech).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        judgement = discriminator(waveform)
        loss = judgement.logits.mean() + sum(feature.float().mean() for feature in judgement.features)
    loss.backward()
    assert judgement.logits.dtype == torch.float32
    assert {feature.dtype for feature in judgement.features} == {torch.bfloat16}
    assert waveform.grad.isfinite().all()
    difference = (judgement.logits - exact.logits).norm() / exact.logits.norm()
    assert 0 < difference < 0.03


def test_the_state_is_the_parameters_alone_and_survives_a_file(discriminator, speech, tmp_path):
    assert discriminator.state_dict().keys() == dict(discriminator.named_parameters()).keys()
    expected = discriminator(two_crops(speech)).logits
    torch.save(discriminator.state_dict(), tmp_path / "state.pt")
    for parameter in discriminator.parameters():
        parameter.data.normal_()
    assert not torch.equal(discriminator(two_crops(speech)).logits, expected)
    discriminator.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(discriminator(two_crops(speech)).logits, expected)


def test_a_copy_judges_alike_and_learns_alone(discriminator, speech):
    twin = copy.deepcopy(discriminator)
    expected = discriminator(two_crops(speech)).logits
    assert torch.equal(twin(two_crops(speech)).logits, expected)
    for parameter in twin.parameters():
        parameter.data.normal_()
    assert torch.equal(discriminator(two_crops(speech)).logits, expected)


def test_speech_is_soon_told_from_noise_of_its_level(discriminator, speech):
    crops = speech[..., 16_000:48_000].reshape(-1, 1, 2000)
    train, held_out = crops[::2], crops[1::2]
    optimizer = torch.optim.AdamW(discriminator.parameters(), 5e-3, betas=(0.8, 0.99))

    def judge(real):
        level = real.square().mean(-1, keepdim=True).sqrt()
        return discriminator(torch.cat([real, level * torch.randn_like(real)])).logits.flatten(1).chunk(2)

    for _ in range(20):
        real, noise = judge(train)
        loss = F.relu(1 - real).mean() + F.relu(1 + noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        real, noise = judge(held_out)
    assert (real.mean(1) > noise.mean(1)).all()
