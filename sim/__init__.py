"""The world campaigns are tried in: traffic, auctions and response, simulated or replayed from logs."""
