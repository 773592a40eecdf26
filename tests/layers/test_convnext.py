import torch
import torch.nn.functional as F

from codec.layers import ConvNeXtBlock


def test_output_is_that_of_the_steps_of_the_paper():
    block = ConvNeXtBlock(4, expansion=2, kernel_size=3, scale=0.3)
    x = torch.randn(2, 4, 5)
    weights = block.state_dict()

    padded = F.pad(x, (2, 0))
    depthwise = torch.stack(
        [(padded[:, :, t : t + 3] * weights["depthwise.conv.weight"][:, 0]).sum(2) for t in range(5)]
    )
    hidden = depthwise + weights["depthwise.conv.bias"]  # [frames, batch, dim]
    hidden = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    hidden = F.gelu(hidden @ weights["mlp.1.weight"].T + weights["mlp.1.bias"])
    hidden = hidden @ weights["mlp.3.weight"].T + weights["mlp.3.bias"]

    assert weights["mlp.1.weight"].shape == (8, 4)
    torch.testing.assert_close(block(x), x + 0.3 * hidden.permute(1, 2, 0))


def test_a_block_of_scale_zero_is_the_identity():
    x = torch.randn(2, 8, 10)
    assert torch.equal(ConvNeXtBlock(8, scale=0.0)(x), x)


def test_a_block_is_causal_and_sees_kernel_size_frames():
    block = ConvNeXtBlock(8, kernel_size=3)
    x = torch.randn(1, 8, 10)
    changed = x.clone()
    changed[:, :, 4] += torch.randn(8)
    differs = (block(changed) != block(x)).any(dim=1).flatten()
    assert differs.nonzero().flatten().tolist() == [4, 5, 6]


def test_the_branch_does_not_depend_on_the_loudness_of_its_input():
    block = ConvNeXtBlock(8)
    block.depthwise.conv.bias.data.zero_()
    x = torch.randn(1, 8, 10)
    torch.testing.assert_close(block(100 * x) - 100 * x, block(x) - x, atol=1e-4, rtol=1e-3)


def test_the_gradient_arrives_at_every_weight():
    block = ConvNeXtBlock(8)
    block(torch.randn(2, 8, 10)).square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in block.parameters())
