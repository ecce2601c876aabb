"""What test modules share: graphs, networks, kernels, servers, emulators."""
