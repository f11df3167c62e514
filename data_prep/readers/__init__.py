"""Readers: the files of one scan become a canonical CT scan."""
