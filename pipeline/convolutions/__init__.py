"""Convolutions, each pass by the quickest algorithm that is right on the device at hand."""
