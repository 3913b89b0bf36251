"""The floor of the sweeps over aggregator, loss and optimiser: above `mtkd_dist`, which never imports it."""
