"""Who computes F and its gradient, and how: the backends, and the choice between them."""
