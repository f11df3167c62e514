"""What an image is like beside the full dose: its noise, its edges, its HU; and how sure that is."""
