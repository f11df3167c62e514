"""Files of one scan to a canonical volume."""
