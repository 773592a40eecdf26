"""Audio to files of codes and back, block by block: memory does not grow with the length."""

from codec.transcode.decode import Decoded, Lost, check_model, decode_file
from codec.transcode.encode import Encoded, encode_source

__all__ = ["Decoded", "Encoded", "Lost", "check_model", "decode_file", "encode_source"]
