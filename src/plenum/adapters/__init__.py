"""Everything that touches the world outside: files, manifests, hosts and drivers."""
