"""Where scans come from: each source lists its series, and what it sets aside."""
