"""Corpora: what recordings and clips there are, and how each is opened."""
