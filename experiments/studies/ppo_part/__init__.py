"""What PPO adds to imitation, and what it does alone."""
