import torch

from codec.layers import LSTM


def test_output_is_that_of_the_equations():
    layer = LSTM(3, num_layers=2)
    x = torch.randn(2, 3, 5)
    frames = list(x.unbind(2))
    for number in range(2):
        of_input, of_hidden = (getattr(layer.lstm, f"weight_{kind}_l{number}") for kind in ("ih", "hh"))
        bias = getattr(layer.lstm, f"bias_ih_l{number}") + getattr(layer.lstm, f"bias_hh_l{number}")
        hidden = cell = torch.zeros(2, 3)
        for t, frame in enumerate(frames):
            gates = frame @ of_input.T + hidden @ of_hidden.T + bias
            write, keep, candidate, show = gates.chunk(4, dim=1)
            cell = keep.sigmoid() * cell + write.sigmoid() * candidate.tanh()
            hidden = frames[t] = show.sigmoid() * cell.tanh()
    torch.testing.assert_close(layer(x), torch.stack(frames, dim=2))


def test_an_output_depends_on_its_frame_and_all_before_it():
    layer = LSTM(4, num_layers=2)
    x = torch.randn(1, 4, 10)
    changed = x.clone()
    changed[..., 6] += 1
    differs = (layer(changed) != layer(x)).any(dim=1).flatten()
    assert differs.nonzero().flatten().tolist() == [6, 7, 8, 9]


def test_the_gradient_arrives_at_every_weight():
    layer = LSTM(4, num_layers=2)
    layer(torch.randn(2, 4, 10)).square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in layer.parameters())
