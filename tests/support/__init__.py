"""What several tests need: a proxy that breaks connections, a broker's cleaning."""
