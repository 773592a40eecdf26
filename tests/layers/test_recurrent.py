import torch

from codec.layers import LSTM, LSTM_MEMORY


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


def test_what_an_lstm_remembers_fades_within_the_memory_it_is_granted():
    layer = LSTM(8, num_layers=2)
    # Cells that hold 97 % from frame to frame, far more than at the start of training.
    for number in range(2):
        layer.lstm.get_parameter(f"bias_ih_l{number}").data[8:16] = 3.5
    x = torch.randn(1, 8, LSTM_MEMORY + 1)
    changed = x.clone()
    changed[..., 0] += 10
    difference = (layer(changed) - layer(x)).abs().amax(dim=1).flatten()
    assert difference[5] > 0.1
    assert difference[100] > 1e-3
    assert difference[-1] < 1e-4
