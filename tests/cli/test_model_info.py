from codec import Codec
from codec.cli.model_info import read_model_info


def test_a_model_is_described(model_folder):
    codec = Codec.from_pretrained(model_folder)
    info = read_model_info(str(model_folder))
    assert (info.model, info.fingerprint, info.entropy) == ("tiny_1", codec.fingerprint(), None)
    assert (info.sample_rate, info.frame_rate, info.latency) == (16_000, 50, 1000 * codec.latency)
    assert (info.num_quantizers, info.codebook_size, info.bits) == (10, 64, 6)
    assert info.bitrates == list(range(300, 3001, 300))
    assert info.parameters == sum(parameter.numel() for parameter in codec.parameters())
    assert info.rows()["bitrates packed"].startswith("300 600 900 ")
    assert info.rows()["latency"] == f"{1000 * codec.latency:g} ms"
