"""C++ of training that is no operator of a network."""
