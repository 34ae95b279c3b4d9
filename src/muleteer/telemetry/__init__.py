"""Counters, histograms, log events. Must not know who reads them."""
