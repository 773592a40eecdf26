"""The parts of a training run; `recipes/train.py` puts them together."""
