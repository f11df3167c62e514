"""Denoisers, and the low-dose input itself, judged on held-out scans."""
