"""Training of one network in the student pool: state, batches, loop, and the Ray Train shell around them."""
