"""The report of runs as one HTML file that needs no network: curves, statistics, videos, diagnostics and origins."""
